"""Who may enter, decided from one assignment: credentials, what is stripped, and revocation."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, urlencode

import pytest

from jobs.runner.gate_auth import Admission, Policy
from jobs.runner.gate_http import RefusedError, RequestHead
from jobs.runner.gate_route import PREVIEW, TOOLBOX, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.unit

ID = "abcdefghijklmnopqrstuvwxyz"
KEY, TOKEN, FILE_KEY = "the-key", "the-token", "the-file-key"
SIGNING_KEY = bytes(range(32))
NOW = 1_800_000_000.0


def _policy(**changes: Any) -> Policy:
    assignment: dict[str, Any] = {
        "keys": [{"hash": hashlib.sha256(KEY.encode()).hexdigest(), "expires_at": None}],
        "preview_token": TOKEN,
        "signing_key": SIGNING_KEY.hex(),
        "file_signing_key": FILE_KEY,
        "revoked_signatures": [],
        "public": False,
        "private_ports": [5901],
    }
    return Policy(ID, {**assignment, **changes})


def _admit(policy: Policy, route: Route, *lines: str, method: str = "GET") -> Admission:
    raw = "\r\n".join([f"{method} / HTTP/1.1", "Host: h", *lines, "", ""]).encode()
    return policy.admit(RequestHead(raw), route, NOW)


def _status(policy: Policy, route: Route, *lines: str, method: str = "GET") -> int:
    try:
        _admit(policy, route, *lines, method=method)
    except RefusedError as refused:
        return refused.status
    return 200


def _preview(port: int = 3000, target: str = "/", signature: str = "") -> Route:
    return Route(PREVIEW, target.encode(), port, signature=signature.encode())


def _toolbox(target: str = "/files") -> Route:
    return Route(TOOLBOX, target.encode())


def _label(port: int = 3000, expiry: float = NOW + 60, key: bytes = SIGNING_KEY) -> str:
    packed = int(expiry).to_bytes(4, "big")
    mac = hmac.digest(key, f"{ID}:{port}:".encode() + packed, "sha256")[:10]
    return base64.b32encode(packed + mac).decode().rstrip("=").lower()


@pytest.mark.parametrize("route", [_preview(), _preview(2280), _toolbox()])
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((f"Authorization: Bearer {KEY}",), 200),
        ((f"authorization: bearer  {KEY}",), 200),
        ((f"X-Daytona-Preview-Token: {TOKEN}",), 200),
        ((f"X-Daytona-Preview-Token: {TOKEN}", "Authorization: Bearer x"), 200),
        ((), 401),
        (("Authorization: Bearer ",), 401),
        (("Authorization: Bearer wrong",), 401),
        ((f"Authorization: Basic {KEY}",), 401),
        ((f"Authorization: {KEY}",), 401),
        ((f"Authorization: Bearer {TOKEN}",), 401),
        ((f"X-Daytona-Preview-Token: {TOKEN}x",), 401),
        ((f"X-Daytona-Preview-Token: {TOKEN[:-1]}",), 401),
        (("X-Daytona-Preview-Token:",), 401),
        ((f"X_Daytona_Preview_Token: {TOKEN}",), 401),
        ((f"X-Daytona-Preview-Token: {KEY}",), 401),
        ((f"Cookie: daytona-sandbox-auth-{ID}={TOKEN}",), 401),
    ],
)
def test_a_key_or_the_preview_token_opens(
    route: Route, lines: tuple[str, ...], status: int
) -> None:
    assert _status(_policy(), route, *lines) == status


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (f"DAYTONA_SANDBOX_AUTH_KEY={TOKEN}", ""),
        (f"a=%2f&DAYTONA_SANDBOX_AUTH_KEY={TOKEN}&b=+&&c", "?a=%2f&b=+&&c"),
        (f"DAYTONA_SANDBOX_AUTH_KEY={TOKEN}&DAYTONA_SANDBOX_AUTH_KEY={TOKEN}&z", "?z"),
        (
            f"DAYTONA_SANDBOX_AUTH_KEY=app's&DAYTONA_SANDBOX_AUTH_KEY={TOKEN}",
            "?DAYTONA_SANDBOX_AUTH_KEY=app's",
        ),
    ],
)
def test_the_token_in_a_query_is_taken_out_and_nothing_else(query: str, left: str) -> None:
    admission = _admit(_policy(), _preview(target=f"/%2e//x?{query}"))
    assert admission.target == f"/%2e//x{left}".encode()


def test_without_a_preview_token_an_empty_one_does_not_open() -> None:
    policy = _policy(preview_token="")
    assert _status(policy, _preview(target="/?DAYTONA_SANDBOX_AUTH_KEY=")) == 401
    assert _status(policy, _preview(), "X-Daytona-Preview-Token:") == 401


def test_each_credential_of_ours_is_stripped_and_the_apps_own_survive() -> None:
    admission = _admit(
        _policy(),
        _preview(),
        "A: b",
        "Authorization: Bearer app",
        f"X-Daytona-Preview-Token: {TOKEN}",
    )
    assert admission.drop == {3}
    admission = _admit(
        _policy(), _preview(), f"Authorization: Bearer {KEY}", "X-Daytona-Preview-Token: app"
    )
    assert admission.drop == {1}


def test_a_key_is_stripped_even_where_none_is_needed() -> None:
    admission = _admit(_policy(public=True), _preview(), f"Authorization: Bearer {KEY}")
    assert admission.drop == {1}
    assert _admit(_policy(public=True), _preview(), "Authorization: Bearer app").drop == set()


def test_a_referer_with_the_token_goes_no_further() -> None:
    leak = f"Referer: http://h/?DAYTONA_SANDBOX_AUTH_KEY={TOKEN}"
    assert _admit(_policy(public=True), _preview(), leak).drop == {1}
    assert _admit(_policy(public=True), _preview(), "Referer: http://h/").drop == set()


@pytest.mark.parametrize(("port", "status"), [(3000, 200), (2280, 401), (22222, 401), (33333, 401)])
def test_public_never_opens_reserved_ports(port: int, status: int) -> None:
    assert _status(_policy(public=True), _preview(port)) == status


def test_public_opens_neither_private_ports_nor_the_toolbox() -> None:
    assert _status(_policy(public=True), _preview(5901)) == 401
    assert _status(_policy(public=True), _toolbox()) == 401


def test_a_key_that_has_expired_does_not_open() -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    for expires_at, status in ((NOW + 1, 200), (NOW, 401), (NOW - 1, 401)):
        policy = _policy(keys=[{"hash": digest, "expires_at": expires_at}])
        assert _status(policy, _toolbox(), f"Authorization: Bearer {KEY}") == status


def test_the_next_expiry_is_known() -> None:
    policy = _policy(
        keys=[
            {"hash": "a", "expires_at": NOW - 5},
            {"hash": "b", "expires_at": NOW + 7},
            {"hash": "c", "expires_at": None},
        ]
    )
    assert policy.next_expiry(NOW) == NOW + 7
    assert _policy().next_expiry(NOW) == float("inf")


def test_a_signed_label_opens_its_port() -> None:
    assert len(_label()) == 23
    assert _status(_policy(), _preview(signature=_label())) == 200
    assert _status(_policy(), _preview(2280, signature=_label(2280))) == 200


@pytest.mark.parametrize(
    ("port", "label"),
    [
        pytest.param(3001, _label(3000), id="another-port"),
        pytest.param(3000, _label(expiry=NOW), id="expired"),
        pytest.param(3000, _label(key=b"x" * 32), id="another-sandbox's-key"),
        pytest.param(3000, "7" + _label()[1:], id="later-expiry"),
        pytest.param(3000, _label()[:-2] + "aa", id="tampered"),
        pytest.param(3000, "a" * 23, id="made-up"),
    ],
)
def test_any_other_label_does_not(port: int, label: str) -> None:
    assert _status(_policy(), _preview(port, signature=label)) == 401


def test_the_bits_that_base32_leaves_over_do_not_make_a_second_label() -> None:
    label = _label()
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    others = [label[:-1] + alphabet[alphabet.index(label[-1]) ^ bits] for bits in range(1, 8)]
    assert [_status(_policy(), _preview(signature=other)) for other in others] == [401] * 7


def test_a_revoked_label_does_not_open() -> None:
    assert _status(_policy(revoked_signatures=[_label()]), _preview(signature=_label())) == 401


def test_a_label_does_not_open_the_toolbox() -> None:
    assert _status(_policy(), _toolbox()._replace(signature=_label(2280).encode())) == 401


def _file_url(
    method: str, path: str, expires: int | str, *, key: str = FILE_KEY, quoted: bool = True
) -> str:
    mac = hmac.digest(key.encode(), f"v1:files:{method}:{path}:{expires}".encode(), "sha256")
    signature = "v1_" + base64.urlsafe_b64encode(mac).decode().rstrip("=")
    kind = "download" if method == "GET" else "upload-v2"
    written = quote(path) if quoted else quote_plus(path)
    return f"/files/{kind}?path={written}&expires={expires}&signature={signature}"


@pytest.mark.parametrize("path", ["/a", "a b/ü+ö&=%?.txt", "~/x", ""])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("expires", [0, int(NOW) + 9])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_signed_file_url_opens_that_file(
    path: str, method: str, expires: int, quoted: bool
) -> None:
    url = _file_url(method, path, expires, quoted=quoted)
    admission = _admit(_policy(), _toolbox(url), method=method)
    assert admission.target == url.partition("&signature=")[0].encode()


@pytest.mark.parametrize(
    ("method", "url"),
    [
        pytest.param("GET", _file_url("GET", "/a", int(NOW)), id="expired"),
        pytest.param("GET", _file_url("GET", "/a", -1), id="negative"),
        pytest.param("GET", _file_url("GET", "/a", ""), id="no-expiry"),
        pytest.param("GET", _file_url("GET", "/a", "9" * 5000), id="endless-expiry"),
        pytest.param("GET", _file_url("GET", "/a", 0, key="x"), id="another-key"),
        pytest.param("GET", _file_url("GET", "/a", 0).replace("=/a", "=/b"), id="another-path"),
        pytest.param("GET", _file_url("GET", "/a", 0) + "&path=/b", id="two-paths"),
        pytest.param("GET", _file_url("GET", "/a", 0) + "&%70ath=/b", id="two-paths-hidden"),
        pytest.param("GET", _file_url("GET", "/a", 0) + "&expires=0", id="two-expiries"),
        pytest.param("GET", _file_url("POST", "/a", 0), id="upload-by-get"),
        pytest.param("POST", _file_url("GET", "/a", 0), id="download-by-post"),
        pytest.param("DELETE", _file_url("GET", "/a", 0), id="delete"),
        pytest.param("GET", "/x/.." + _file_url("GET", "/a", 0), id="another-spelling"),
        pytest.param("GET", _file_url("GET", "/a", 0)[:-1], id="truncated"),
        pytest.param("GET", _file_url("GET", "/a", 0).replace("download", "info"), id="info"),
        pytest.param("GET", "/files/download?path=/a&expires=0", id="unsigned"),
    ],
)
def test_no_other_file_url_opens(method: str, url: str) -> None:
    assert _status(_policy(), _toolbox(url), method=method) == 401


def test_a_file_url_is_made_for_the_toolbox_only() -> None:
    assert _status(_policy(), _preview(3000, _file_url("GET", "/a", 0))) == 401


def test_without_a_file_key_nothing_is_signed() -> None:
    assert _status(_policy(file_signing_key=""), _toolbox(_file_url("GET", "/a", 0, key=""))) == 401


@pytest.mark.parametrize(
    ("route", "lines", "changes"),
    [
        (_toolbox(), (f"Authorization: Bearer {KEY}",), {"keys": []}),
        (
            _toolbox(),
            (f"Authorization: Bearer {KEY}",),
            {"keys": [{"hash": hashlib.sha256(KEY.encode()).hexdigest(), "expires_at": NOW}]},
        ),
        (_preview(), (f"X-Daytona-Preview-Token: {TOKEN}",), {"preview_token": "new"}),
        (
            _preview(target=f"/?DAYTONA_SANDBOX_AUTH_KEY={TOKEN}"),
            (),
            {"preview_token": ""},
        ),
        (_preview(signature=_label()), (), {"revoked_signatures": [_label()]}),
        (_preview(signature=_label()), (), {"signing_key": "00" * 32}),
        (_toolbox(_file_url("GET", "/a", 0)), (), {"file_signing_key": "rotated"}),
    ],
)
def test_what_was_admitted_ends_with_what_admitted_it(
    route: Route, lines: tuple[str, ...], changes: Mapping[str, Any]
) -> None:
    grant = _admit(_policy(), route, *lines).grant
    assert _policy().holds(grant, NOW)
    assert _policy(public=True, private_ports=[]).holds(grant, NOW)
    assert not _policy(**changes).holds(grant, NOW)


def test_what_was_admitted_as_public_ends_with_that() -> None:
    grant = _admit(_policy(public=True), _preview()).grant
    assert _policy(public=True, keys=[]).holds(grant, NOW)
    assert not _policy(public=False).holds(grant, NOW)
    assert not _policy(public=True, private_ports=[3000]).holds(grant, NOW)


def test_a_credential_outlasts_public() -> None:
    grant = _admit(_policy(public=True), _preview(), f"Authorization: Bearer {KEY}").grant
    assert _policy(public=False).holds(grant, NOW)


@pytest.mark.parametrize(
    ("policy", "route", "lines", "readable"),
    [
        (_policy(public=True), _preview(), (), True),
        (_policy(), _preview(), (f"X-Daytona-Preview-Token: {TOKEN}",), True),
        (_policy(), _preview(), (f"Authorization: Bearer {KEY}",), True),
        (_policy(), _preview(target=f"/?DAYTONA_SANDBOX_AUTH_KEY={TOKEN}"), (), True),
        (_policy(), _preview(signature=_label()), (), False),
        (_policy(), _toolbox(), (f"Authorization: Bearer {KEY}",), False),
    ],
)
def test_pages_of_other_origins_read_only_what_a_credential_of_theirs_opened(
    policy: Policy, route: Route, lines: tuple[str, ...], readable: bool
) -> None:
    assert _admit(policy, route, *lines).cors == readable


def test_query_signatures_are_made_like_the_sdks_do() -> None:
    """The SDKs build the query by form encoding, where a space is a plus."""
    url = _file_url("GET", "/a b", 0)
    signature = url.partition("signature=")[2]
    form = urlencode({"path": "/a b", "expires": 0, "signature": signature})
    assert _status(_policy(), _toolbox(f"/files/download?{form}")) == 200
