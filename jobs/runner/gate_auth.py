"""Who may enter: one version of the assignment, and what it says about a request.

Decides offline and without waiting. A credential that is ours never goes further than here;
whatever else a request carries in the same places belongs to the app and survives.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from jobs.runner.gate_http import RefusedError
from jobs.runner.gate_route import GUARDED_PORTS, TOOLBOX
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
    """An admitted request: with which target and without which fields it goes on.

    ``cors`` tells whether pages of any origin may read the answer.
    """

    grant: Grant
    target: bytes
    drop: set[int]
    cors: bool


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
        return self._label_expiry(grant.value, grant.port) is not None

    def admit(self, head: RequestHead, route: Route, now: float) -> Admission:
        """Decide about a request.

        Raises:
            RefusedError: 401, it may not enter.
        """
        drop: set[int] = set()
        target, query_grant = self._by_query(route.target)
        grant = self._by_fields(head, now, drop)
        readable = grant is not None or query_grant is not None
        grant = grant or query_grant
        if route.kind == TOOLBOX:
            if grant is None:
                target, grant = self._by_file_signature(head.method, target, now)
            readable = False
        else:
            is_open = self._opens(route.port)
            readable = readable or is_open
            if grant is None and route.signature:
                expiry = self._label_expiry(route.signature, route.port)
                if expiry is not None and expiry > now:
                    grant = Grant("label", route.signature, route.port)
            if grant is None and is_open:
                grant = Grant("public", b"", route.port)
        if grant is None:
            raise RefusedError(401, _WAY_IN, b"WWW-Authenticate: Bearer")
        self._drop_leaks(head, drop)
        return Admission(grant, target, drop, readable)

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

    def _by_query(self, target: bytes) -> tuple[bytes, Grant | None]:
        """Take the preview token out of a query, without touching its other bytes."""
        if QUERY_KEY not in target or not self._token:
            return target, None
        path, _, query = target.partition(b"?")
        parts = query.split(b"&")
        kept = [part for part in parts if not self._is_token(part)]
        if len(kept) == len(parts):
            return target, None
        return _join(path, kept), Grant("token", self._token)

    def _is_token(self, part: bytes) -> bool:
        name, _, value = part.partition(b"=")
        return name == QUERY_KEY and same(value, self._token)

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
        """Drop a Referer that has our token in it: pages opened with it in their URL send that."""
        referer = head.values.get(b"referer")
        if referer is not None and self._token and self._token in referer:
            drop.update(head.positions(b"referer"))


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
