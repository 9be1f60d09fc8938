"""How browsers stay with a private preview: by a cookie of its host, for who showed a credential.

A page cannot put a token into what it loads. So whoever opens one with a token or a key gets a
cookie that opens this port of this sandbox for a day, while that token or key is valid. What pages
of other origins make a browser send does not count, whatever cookie is with it.
"""

from __future__ import annotations

import base64

from jobs.runner.message import hmac_sha256

SECONDS = 86400
NAMES = (b"__Host-yurt-preview", b"yurt-preview")
"""With and without TLS: the first is taken by browsers over TLS only, and from no other host."""

HINT_BYTES = 8
_EXPIRY_BYTES, _MAC_BYTES = 4, 16
_LONGEST = 64

ENTRY_PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>This preview is private</title>
<body style="font-family:sans-serif;margin:15vh auto;max-width:32rem">
<h1>This preview is private</h1>
<p>Open it by a link with its token, or enter its token or an API key:</p>
<form><input type="password" name="DAYTONA_SANDBOX_AUTH_KEY" aria-label="Token or key" autofocus>
<button>Open</button></form>
"""
ENTRY_LINES = (
    b"Content-Type: text/html; charset=utf-8",
    b"Cache-Control: no-store",
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'self';"
    b" frame-ancestors 'none'",
    b"Referrer-Policy: no-referrer",
)


def is_navigation(fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether somebody opens a page by a request, whose fields have lower-case names.

    Browsers say so themselves, but not to plain HTTP on another machine; there only pages that
    are opened ask for better ones.
    """
    if b"prefetch" in fields.get(b"sec-purpose", b""):
        return False
    if b"sec-fetch-site" in fields:
        return fields.get(b"sec-fetch-mode") == b"navigate"
    return fields.get(b"upgrade-insecure-requests") == b"1"


def is_whole_page(fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether a page is opened by itself, not in a frame of another."""
    return is_navigation(fields) and fields.get(b"sec-fetch-dest", b"document") == b"document"


def counts(head: RequestHead) -> bool:
    """Tell whether a cookie says anything: a page elsewhere may have had the request sent."""
    fields = head.values
    site = fields.get(b"sec-fetch-site")
    if site is not None:
        is_link = is_whole_page(fields) and head.method in {b"GET", b"HEAD"}
        return site in {b"same-origin", b"none"} or is_link
    origin = fields.get(b"origin")
    return origin is None or origin.partition(b"://")[2].lower() == head.host.lower()


def sent(head: RequestHead) -> list[bytes]:
    """Return the values of our cookies in a request; anybody may have added some."""
    return [
        value.strip()
        for name, field in head.fields
        if name == b"cookie"
        for part in field.split(b";")
        for known, _, value in (part.partition(b"="),)
        if known.strip() in NAMES
    ]


def strip(head: RequestHead, drop: set[int]) -> list[bytes]:
    """Take our cookies out: ``drop`` gets fields, and what is left of them is returned as lines."""
    left = []
    for position in head.positions(b"cookie"):
        parts = head.fields[position][1].split(b";")
        kept = [part for part in parts if part.partition(b"=")[0].strip() not in NAMES]
        if len(kept) < len(parts):
            drop.add(position)
            if kept:
                left.append(b"Cookie: " + b";".join(kept).strip())
    return left


def make(signing_key: bytes, place: bytes, holder: bytes, hint: bytes, expires_at: int) -> bytes:
    """Make the value of a cookie.

    Args:
        signing_key: the sandbox's.
        place: which sandbox and port it opens.
        holder: the token or the hash of the key that it stands for.
        hint: which key that is, readable to us; empty for a token.
        expires_at: in unix seconds.
    """
    packed = expires_at.to_bytes(_EXPIRY_BYTES, "big") + hint
    mac = hmac_sha256(signing_key, b"cookie:%b:%b:%b" % (place, holder, packed))[:_MAC_BYTES]
    return base64.b32encode(packed + mac).rstrip(b"=").lower()


def read(value: bytes) -> tuple[int, bytes]:
    """Return until when a value says to open, and its hint; whether it is ours is not looked at.

    Raises:
        ValueError: it is no such value.
    """
    if len(value) > _LONGEST:
        raise ValueError("too long")
    raw = base64.b32decode(value.upper() + b"=" * (-len(value) % 8))
    hint = raw[_EXPIRY_BYTES:-_MAC_BYTES]
    if len(raw) < _EXPIRY_BYTES + _MAC_BYTES or len(hint) not in {0, HINT_BYTES}:
        raise ValueError("of another length")
    return int.from_bytes(raw[:_EXPIRY_BYTES], "big"), hint


def line(value: bytes, seconds: int, *, secure: bool) -> bytes:
    """Write the field that gives a browser a cookie, for this host alone."""
    name = NAMES[0] if secure else NAMES[1]
    more = b"; Secure" if secure else b""
    form = b"Set-Cookie: %b=%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%b"
    return form % (name, value, seconds, more)


def move(target: bytes, cookie: bytes) -> list[bytes]:
    """Write the fields that lead a browser to ``target``, which has no token in it any more."""
    return [
        b"Location: " + target,
        cookie,
        b"Cache-Control: no-store",
        b"Referrer-Policy: no-referrer",
    ]


def stays_here(target: bytes) -> bool:
    """Tell whether a browser takes a target for a path of the same host: not ``//elsewhere``."""
    return target[1:2] not in {b"/", b"\\"}


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.runner.gate_http import RequestHead
