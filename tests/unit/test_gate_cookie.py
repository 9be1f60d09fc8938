"""How a browser stays with a private preview, decided from one assignment and one request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from jobs.runner import gate_cookie
from jobs.runner.gate_auth import Admission, Policy
from jobs.runner.gate_http import RefusedError, RequestHead
from jobs.runner.gate_route import PREVIEW, TOOLBOX, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.unit

ID, OTHER = "abcdefghijklmnopqrstuvwxyz", "zyxwvutsrqponmlkjihgfedcba"
HOST = f"3000-{ID}.box.test:9878"
KEY, OTHER_KEY, TOKEN = "the-key", "another-key", "the-token"
NOW = 1_800_000_000.0
QUERY = f"/a?x=1&DAYTONA_SANDBOX_AUTH_KEY={TOKEN}"
PAGE = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
PLAIN_PAGE = {"Upgrade-Insecure-Requests": "1"}
FRAME = PAGE | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}
OWN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def policy(sandbox: str = ID, **changes: Any) -> Policy:
    assignment: dict[str, Any] = {
        "keys": [
            {"hash": digest(KEY), "expires_at": None},
            {"hash": digest(OTHER_KEY), "expires_at": NOW + 60},
        ],
        "preview_token": TOKEN,
        "signing_key": bytes(range(32)).hex(),
        "file_signing_key": "",
        "revoked_signatures": [],
        "public": False,
        "private_ports": [],
    }
    return Policy(sandbox, {**assignment, **changes})


def admit(
    by: Policy,
    target: str = "/",
    fields: Mapping[str, str] = PAGE,
    *,
    port: int = 3000,
    method: str = "GET",
    kind: str = PREVIEW,
    at: float = NOW,
) -> Admission:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    head = RequestHead("\r\n".join([*lines, "", ""]).encode())
    return by.admit(head, Route(kind, head.target, port), at)


def enters(*arguments: Any, **more: Any) -> bool:
    try:
        admit(*arguments, **more)
    except RefusedError:
        return False
    return True


def cookie(by: Policy | None = None, **more: Any) -> dict[str, str]:
    """Get a cookie by the token, or as told, and return the field that a browser then sends."""
    line = admit(by or policy(), more.pop("target", QUERY), **more).cookie.decode()
    name, _, rest = line.partition(": ")
    assert name == "Set-Cookie"
    return {"Cookie": rest.partition(";")[0]}


@pytest.mark.parametrize("page", [PAGE, PLAIN_PAGE, PAGE | {"Sec-Fetch-Site": "cross-site"}])
def test_a_page_that_is_opened_by_its_token_goes_on_without_it(page: Mapping[str, str]) -> None:
    admission = admit(policy(), QUERY, page)
    assert admission.moves
    assert admission.target == b"/a?x=1"
    assert admission.cookie.endswith(b"; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax")
    assert TOKEN.encode() not in admission.cookie
    assert b"Domain" not in admission.cookie
    assert enters(policy(), "/", OWN | cookie())


def test_under_tls_the_cookie_is_bound_to_its_host_and_to_tls() -> None:
    line = admit(policy(secure=True), QUERY).cookie
    assert line.startswith(b"Set-Cookie: __Host-yurt-preview=")
    assert line.endswith(b"; Secure")
    assert enters(policy(secure=True), "/", OWN | cookie(policy(secure=True)))


@pytest.mark.parametrize("target", [f"/{c}{QUERY}" for c in ("", "\\", "/x/..")])
def test_nobody_is_moved_to_another_host(target: str) -> None:
    admission = admit(policy(), target)
    assert admission.cookie
    assert admission.moves is (target[1:2] not in {"/", "\\"})


def test_a_key_in_the_query_or_in_its_field_gives_one_too() -> None:
    by_query = cookie(target=f"/?DAYTONA_SANDBOX_AUTH_KEY={KEY}")
    by_field = cookie(target="/", fields=PAGE | {"Authorization": f"Bearer {KEY}"})
    assert by_query == by_field
    assert enters(policy(), "/", OWN | by_query)
    assert not enters(policy(keys=[]), "/", OWN | by_query)
    assert not admit(policy(), "/", PAGE | {"Authorization": f"Bearer {KEY}"}).moves


@pytest.mark.parametrize(
    ("target", "fields", "more"),
    [
        (QUERY, OWN, {}),
        (QUERY, {}, {}),
        (QUERY, PAGE, {"method": "POST"}),
        (QUERY, PAGE, {"port": 2280}),
        (QUERY, PAGE, {"kind": TOOLBOX}),
        ("/", PAGE | {"X-Daytona-Preview-Token": TOKEN}, {"port": 2280}),
    ],
)
def test_what_is_no_page_gets_none(
    target: str, fields: Mapping[str, str], more: dict[str, Any]
) -> None:
    admission = admit(policy(), target, fields, **more)
    assert not admission.cookie
    assert not admission.moves


def test_what_is_open_anyway_needs_none() -> None:
    admission = admit(policy(public=True), QUERY)
    assert not admission.cookie
    assert admission.target == b"/a?x=1"


def test_a_frame_elsewhere_is_not_moved_to_where_its_cookie_is_not_sent() -> None:
    admission = admit(policy(), QUERY, FRAME)
    assert not admission.moves
    assert admission.target == b"/a?x=1"


def test_it_opens_one_port_of_one_sandbox_for_its_time() -> None:
    mine = OWN | cookie()
    assert enters(policy(), "/", mine, at=NOW + 86_399)
    assert not enters(policy(), "/", mine, at=NOW + 86_400)
    assert not enters(policy(), "/", mine, port=3001)
    assert not enters(policy(OTHER), "/", mine)
    assert not enters(policy(), "/", mine, port=2280)
    assert not enters(policy(), "/files", mine, kind=TOOLBOX)
    assert not enters(policy(signing_key="00" * 32), "/", mine)


def test_it_ends_with_the_token_or_key_that_it_stands_for() -> None:
    mine = OWN | cookie()
    assert not enters(policy(preview_token="new"), "/", mine)
    assert not enters(policy(preview_token=""), "/", mine)
    theirs = cookie(target=f"/?DAYTONA_SANDBOX_AUTH_KEY={OTHER_KEY}")
    line = admit(policy(), f"/?DAYTONA_SANDBOX_AUTH_KEY={OTHER_KEY}").cookie
    assert b"Max-Age=60;" in line
    assert enters(policy(), "/", OWN | theirs, at=NOW + 59)
    assert not enters(policy(), "/", OWN | theirs, at=NOW + 61)


def test_what_it_opened_closes_with_what_it_stands_for() -> None:
    grant = admit(policy(), "/", OWN | cookie()).grant
    assert policy().holds(grant, NOW)
    assert not policy(preview_token="new").holds(grant, NOW)
    by_key = admit(policy(), "/", OWN | cookie(target=f"/?DAYTONA_SANDBOX_AUTH_KEY={KEY}")).grant
    assert policy().holds(by_key, NOW)
    assert not policy(keys=[]).holds(by_key, NOW)


@pytest.mark.parametrize(
    ("fields", "method", "expected"),
    [
        (OWN, "POST", True),
        (PAGE, "GET", True),
        (PLAIN_PAGE, "GET", True),
        ({}, "GET", True),
        # A link on another page may be followed, and nothing else there makes the cookie count.
        (PAGE | {"Sec-Fetch-Site": "cross-site"}, "GET", True),
        (PAGE | {"Sec-Fetch-Site": "cross-site"}, "POST", False),
        (PAGE | {"Sec-Fetch-Site": "same-site"}, "POST", False),
        (FRAME | {"Sec-Fetch-Site": "same-site"}, "GET", False),
        (OWN | {"Sec-Fetch-Site": "same-site"}, "GET", False),
        (OWN | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "GET", False),
        ({"Origin": f"http://{HOST}"}, "POST", True),
        ({"Origin": f"http://3000-{OTHER}.box.test:9878"}, "POST", False),
        ({"Origin": "null"}, "POST", False),
    ],
)
def test_only_pages_of_the_same_host_and_whoever_opens_one_use_it(
    fields: Mapping[str, str], method: str, expected: bool
) -> None:
    assert enters(policy(), "/", {**fields, **cookie()}, method=method) is expected


def test_it_lets_no_other_origin_read() -> None:
    assert not admit(policy(), "/", OWN | cookie()).cors


def test_the_program_inside_does_not_see_it() -> None:
    ours = cookie()["Cookie"]
    admission = admit(policy(), "/", OWN | {"Cookie": f"a=1; {ours}; b=yurt-preview=2"})
    assert admission.add == [b"Cookie: a=1; b=yurt-preview=2"]
    assert len(admission.drop) == 1
    alone = admit(policy(public=True), "/", OWN | {"Cookie": "__Host-yurt-preview=junk"})
    assert (alone.add, len(alone.drop)) == ([], 1)
    others = admit(policy(public=True), "/", OWN | {"Cookie": "a=1;  b"})
    assert (others.add, others.drop) == ([], set())
    toolbox = {"Authorization": f"Bearer {KEY}", "Cookie": ours}
    assert len(admit(policy(), "/files", toolbox, kind=TOOLBOX).drop) == 2


def test_another_one_of_the_same_name_does_not_lock_out() -> None:
    ours = cookie()["Cookie"]
    assert enters(policy(), "/", OWN | {"Cookie": f"yurt-preview=planted; {ours}"})


@pytest.mark.parametrize(
    "value", ["", "x", "=", "a" * 32, "a" * 45, "a" * 4000, "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_what_is_none_opens_nothing_and_breaks_nothing(value: str) -> None:
    assert not enters(policy(), "/", OWN | {"Cookie": f"yurt-preview={value}"})


def test_a_referer_with_a_key_goes_no_further() -> None:
    referer = f"http://{HOST}/?DAYTONA_SANDBOX_AUTH_KEY={KEY}"
    assert len(admit(policy(public=True), "/", OWN | {"Referer": referer}).drop) == 1


def test_the_longest_value_is_read() -> None:
    value = gate_cookie.make(b"k", b"p", b"h", bytes(gate_cookie.HINT_BYTES), 2**32 - 1)
    assert gate_cookie.read(value) == (2**32 - 1, bytes(gate_cookie.HINT_BYTES))
