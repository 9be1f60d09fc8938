"""Who may enter: one version of the assignment, and what it says about a request.

Decides offline and without waiting. A credential that is ours never goes further than here;
whatever else a request carries in the same places belongs to the app and survives.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from jobs.runner import gate_cookie
from jobs.runner.gate_http import RefusedError
from jobs.runner.gate_route import AGENT_PORT, GUARDED_PORTS, TOOLBOX
from jobs.runner.message import hmac_sha256, same, sha256

QUERY_KEY = b"DAYTONA_SANDBOX_AUTH_KEY"
_WAY_IN = "a valid API key or preview token is needed here"
_NEVER = float("inf")
_EXPIRY_BYTES = 4
_MAC_BYTES = 10
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_SIGNED_FILES = frozenset(((b"GET", b"/files/download"), (b"POST", b"/files/upload-v2")))
_EXPIRES = re.compile(rb"[0-9]{1,15}")


class Grant(NamedTuple):
    """Why a request was admitted, so that it can be asked later whether that still holds."""

    kind: str
    value: bytes
    port: int = 0


class Admission(NamedTuple):
    """An admitted request: with which target and fields it goes on.

    ``drop`` are the fields that it loses, ``add`` the lines that it gets instead. ``cors`` tells
    whether pages of any origin may read the answer. ``cookie`` is a line for the answer, if there
    is one; if it ``moves``, that is where to, and nothing else.
    """

    grant: Grant
    target: bytes
    drop: set[int]
    add: list[bytes]
    cors: bool
    cookie: bytes = b""
    moves: bool = False


class Policy:
    """One version of the assignment."""

    def __init__(self, sandbox_id: str, assignment: Mapping[str, Any]) -> None:
        self._sandbox = sandbox_id.encode()
        # By hash: a look-up tells an attacker at most about digests that nobody can choose.
        self._keys: dict[str, float] = {
            key["hash"]: _NEVER if key["expires_at"] is None else float(key["expires_at"])
            for key in assignment["keys"]
        }
        self._token = str(assignment["preview_token"]).encode()
        self._signing_key = bytes.fromhex(assignment["signing_key"])
        self._file_key = str(assignment["file_signing_key"]).encode()
        self._revoked = frozenset(text.encode() for text in assignment["revoked_signatures"])
        self._public = bool(assignment["public"])
        self._secure = bool(assignment.get("secure"))
        self._guarded = GUARDED_PORTS.union(assignment["private_ports"])

    def next_expiry(self, now: float) -> float:
        """Return when the next key expires; infinity if none does."""
        return min((at for at in self._keys.values() if at > now), default=_NEVER)

    def holds(self, grant: Grant, now: float) -> bool:
        """Tell whether what was admitted by ``grant`` may go on."""
        if grant.kind == "key":
            return self._keys.get(grant.value.decode(), 0) > now
        if grant.kind == "token":
            return bool(self._token) and same(grant.value, self._token)
        if grant.kind == "public":
            return self._opens(grant.port)
        if grant.kind == "file":
            return same(grant.value, self._file_key)
        if grant.kind == "cookie":
            return self._cookie_expiry(grant.value, grant.port, now) is not None
        return self._label_expiry(grant.value, grant.port) is not None

    def admit(self, head: RequestHead, route: Route, now: float) -> Admission:
        """Decide about a request.

        Raises:
            RefusedError: 401, it may not enter.
        """
        drop: set[int] = set()
        target, query_grant = self._by_query(route, now)
        grant = self._by_fields(head, now, drop)
        shown = grant or query_grant
        is_open = route.kind != TOOLBOX and self._opens(route.port)
        cors = route.kind != TOOLBOX and (shown is not None or is_open)
        if shown is not None:
            grant = shown
        elif route.kind == TOOLBOX:
            target, grant = self._by_file_signature(head.method, target, now)
        else:
            grant = self._by_place(head, route, now)
        if grant is None:
            raise RefusedError(401, _WAY_IN, b"WWW-Authenticate: Bearer")
        self._drop_leaks(head, drop)
        add = gate_cookie.strip(head, drop)
        admission = Admission(grant, target, drop, add, cors)
        if shown is None or is_open or not _takes_cookies(head, route):
            return admission
        in_query = target != route.target and gate_cookie.is_whole_page(head.values)
        moves = in_query and gate_cookie.stays_here(target)
        return admission._replace(cookie=self._cookie(shown, route.port, now), moves=moves)

    def _by_place(self, head: RequestHead, route: Route, now: float) -> Grant | None:
        """Look at what opens a preview without a credential that was shown with this request."""
        port = route.port
        if route.signature:
            expiry = self._label_expiry(route.signature, port)
            if expiry is not None and expiry > now:
                return Grant("label", route.signature, port)
        if self._opens(port):
            return Grant("public", b"", port)
        if port != AGENT_PORT and gate_cookie.counts(head):
            for value in gate_cookie.sent(head):
                expiry = self._cookie_expiry(value, port, now)
                if expiry is not None and expiry > now:
                    return Grant("cookie", value, port)
        return None

    def _opens(self, port: int) -> bool:
        return self._public and port not in self._guarded

    def _by_fields(self, head: RequestHead, now: float, drop: set[int]) -> Grant | None:
        """Look at the fields that may carry a credential; note those that do in ``drop``."""
        grant = None
        if b"x-daytona-preview-token" in head.values:
            token = head.values[b"x-daytona-preview-token"]
            if self._token and same(token, self._token):
                drop.update(head.positions(b"x-daytona-preview-token"))
                grant = Grant("token", token)
        if b"authorization" in head.values:
            scheme, _, key = head.values[b"authorization"].partition(b" ")
            digest = sha256(key.strip(b" ")).hexdigest()
            if scheme.lower() == b"bearer" and self._keys.get(digest, 0) > now:
                drop.update(head.positions(b"authorization"))
                grant = Grant("key", digest.encode())
        return grant

    def _by_query(self, route: Route, now: float) -> tuple[bytes, Grant | None]:
        """Take the token, or a preview's key, out of a query, without touching its other bytes."""
        target = route.target
        if QUERY_KEY not in target:
            return target, None
        path, _, query = target.partition(b"?")
        parts = query.split(b"&")
        grants = [self._of_part(part, route.kind, now) for part in parts]
        found = [grant for grant in grants if grant is not None]
        if not found:
            return target, None
        kept = [part for part, grant in zip(parts, grants, strict=True) if grant is None]
        return _join(path, kept), found[0]

    def _of_part(self, part: bytes, kind: str, now: float) -> Grant | None:
        name, _, value = part.partition(b"=")
        if name != QUERY_KEY:
            return None
        if self._token and same(value, self._token):
            return Grant("token", self._token)
        digest = sha256(value).hexdigest()
        if kind != TOOLBOX and self._keys.get(digest, 0) > now:
            return Grant("key", digest.encode())
        return None

    def _cookie(self, grant: Grant, port: int, now: float) -> bytes:
        """Return the line that gives a browser a cookie instead of a token or key."""
        is_key = grant.kind == "key"
        most = now + gate_cookie.SECONDS
        until = int(min(most, self._keys[grant.value.decode()]) if is_key else most)
        hint = bytes.fromhex(grant.value.decode())[: gate_cookie.HINT_BYTES] if is_key else b""
        holder = b"%b:%b" % (grant.kind.encode(), grant.value)
        value = gate_cookie.make(self._signing_key, self._place(port), holder, hint, until)
        return gate_cookie.line(value, until - int(now), secure=self._secure)

    def _cookie_expiry(self, value: bytes, port: int, now: float) -> int | None:
        """Return until when a cookie opens a port; None if what it stands for is not valid."""
        try:
            expires_at, hint = gate_cookie.read(value)
        except ValueError:
            return None
        holders = [b"token:" + self._token] if self._token and not hint else []
        if hint:
            known = (digest for digest, end in self._keys.items() if end > now)
            holders = [b"key:" + d.encode() for d in known if d.startswith(hint.hex())]
        made = (
            gate_cookie.make(self._signing_key, self._place(port), holder, hint, expires_at)
            for holder in holders
        )
        return expires_at if any(same(one, value) for one in made) else None

    def _place(self, port: int) -> bytes:
        return b"%b:%d" % (self._sandbox, port)

    def _label_expiry(self, label: bytes, port: int) -> int | None:
        """Return until when a signed preview's label opens ``port``; None if it never did.

        A label is, in base32, the expiry and a MAC over sandbox, port and expiry.
        """
        try:
            expiry = base64.b32decode(label.upper() + b"=")[:_EXPIRY_BYTES]
        except binascii.Error:
            return None
        text = b"%b:%d:%b" % (self._sandbox, port, expiry)
        mac = hmac_sha256(self._signing_key, text)[:_MAC_BYTES]
        expected = base64.b32encode(expiry + mac).rstrip(b"=").lower()
        if not same(expected, label) or label in self._revoked:
            return None
        return int.from_bytes(expiry, "big")

    def _by_file_signature(
        self, method: bytes, target: bytes, now: float
    ) -> tuple[bytes, Grant | None]:
        """Check a signed file URL: ``?path=&expires=&signature=`` (the SDKs' version 1)."""
        path, _, query = target.partition(b"?")
        if (method, path) not in _SIGNED_FILES or not self._file_key:
            return target, None
        parts = query.split(b"&")
        values = [_decode_pair(part) for part in parts]
        found = dict(values)
        names = [name for name, _ in values]
        if any(names.count(name) != 1 for name in (b"path", b"expires", b"signature")):
            return target, None  # with two of one name, agent and gate could differ on which counts
        expires = found[b"expires"]
        text = b"v1:files:%b:%b:%b" % (method, found[b"path"], expires)
        mac = base64.urlsafe_b64encode(hmac_sha256(self._file_key, text)).rstrip(b"=")
        if not same(b"v1_" + mac, found[b"signature"]) or not _EXPIRES.fullmatch(expires):
            return target, None
        if int(expires) != 0 and int(expires) <= now:
            return target, None
        kept = [part for part, name in zip(parts, names, strict=True) if name != b"signature"]
        return _join(path, kept), Grant("file", self._file_key)

    def _drop_leaks(self, head: RequestHead, drop: set[int]) -> None:
        """Drop a Referer that has a credential: pages opened with it in their URL send that."""
        referer = head.values.get(b"referer", b"")
        has_token = bool(self._token) and self._token in referer
        if has_token or QUERY_KEY + b"=" in referer:
            drop.update(head.positions(b"referer"))


def _takes_cookies(head: RequestHead, route: Route) -> bool:
    """Tell whether a browser opens a page by a request, which is to be the last with a credential.

    The agent's port is none for pages: who opens it runs commands.
    """
    is_page = route.kind != TOOLBOX and route.port != AGENT_PORT
    return is_page and head.method == b"GET" and gate_cookie.is_navigation(head.values)


def vouch(head: RequestHead, route: Route, secret: bytes, drop: set[int]) -> list[bytes]:
    """Return the lines by which the gate vouches to the agent; ``drop`` gets what they replace."""
    if b"x-forwarded-prefix" in head.values:
        drop.update(head.positions(b"x-forwarded-prefix"))
    add = [b"X-Yurt-Secret: " + secret]
    if route.prefix:
        add.append(b"X-Forwarded-Prefix: " + route.prefix)
    return add


def _decode_pair(part: bytes) -> tuple[bytes, bytes]:
    """Decode one ``name=value`` of a query as the agent does."""
    name, _, value = part.replace(b"+", b" ").partition(b"=")
    return _unquote(name), _unquote(value)


def _unquote(raw: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw)


def _join(path: bytes, parts: list[bytes]) -> bytes:
    return path + b"?" + b"&".join(parts) if parts else path


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from jobs.runner.gate_http import RequestHead
    from jobs.runner.gate_route import Route
