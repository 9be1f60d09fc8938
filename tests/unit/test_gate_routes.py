"""Which requests are for a sandbox: one spelling of each name, everything near it refused."""

from __future__ import annotations

import pytest

from jobs.runner.gate_http import RefusedError
from jobs.runner.gate_route import HEALTH, MESSAGE, PREVIEW, TOOLBOX, Route, Router

pytestmark = pytest.mark.unit

ID = "abcdefghijklmnopqrstuvwxyz"
OTHER = "zyxwvutsrqponmlkjihgfedcba"
SIGNATURE = "a2345672345672345672345"
ROUTER = Router(ID, "localhost, Preview.example.com")


@pytest.mark.parametrize(
    ("host", "route"),
    [
        (f"3000-{ID}.localhost", Route(PREVIEW, b"/x", 3000)),
        (f"3000-{ID}.localhost:9878", Route(PREVIEW, b"/x", 3000)),
        (f"1-{ID}.preview.example.com", Route(PREVIEW, b"/x", 1)),
        (f"65535-{ID}.LocalHost", Route(PREVIEW, b"/x", 65535)),
        (f"3000-{ID.upper()}.localhost", Route(PREVIEW, b"/x", 3000)),
        (
            f"3000-{ID}-{SIGNATURE}.localhost",
            Route(PREVIEW, b"/x", 3000, signature=SIGNATURE.encode()),
        ),
        (
            f"3000-{ID}-{SIGNATURE.upper()}.localhost",
            Route(PREVIEW, b"/x", 3000, signature=SIGNATURE.encode()),
        ),
    ],
)
def test_a_preview_host_names_one_port(host: str, route: Route) -> None:
    assert ROUTER.find(host.encode(), b"/x") == route


FOREIGN_HOSTS = [
    f"3000-{OTHER}.localhost",
    f"03000-{ID}.localhost",
    f"+3000-{ID}.localhost",
    f"-3000-{ID}.localhost",
    f" 3000-{ID}.localhost",
    f"3000.0-{ID}.localhost",
    f"3e3-{ID}.localhost",
    f"0x50-{ID}.localhost",
    f"0-{ID}.localhost",
    f"65536-{ID}.localhost",
    f"99999-{ID}.localhost",
    f"100000-{ID}.localhost",
    f"٣٠٠٠-{ID}.localhost",
    f"３０００-{ID}.localhost",  # noqa: RUF001 - fullwidth digits
    f"-{ID}.localhost",
    f"{ID}.localhost",
    f"3000--{ID}.localhost",
    f"3000-{ID}-.localhost",
    f"3000-{ID}-{OTHER}.localhost",
    f"3000-{OTHER}-{ID}.localhost",
    f"3000-{ID}-{SIGNATURE[:-1]}.localhost",
    f"3000-{ID}-{SIGNATURE}a.localhost",
    f"3000-{ID}-{SIGNATURE[:-1]}1.localhost",
    f"3000-{ID}-{'a' * 30}.localhost",
    f"3000-{ID}.localhost.",
    f"3000-{ID}.localhost.:80",
    f"3000-{ID}.localhost:",
    f"3000-{ID}.localhost:999999",
    f"3000-{ID}.localhost:80:80",
    f"3000-{ID}.localhost/",
    f"3000-{ID}.localhost?x",
    f"3000-{ID}.localhost#",
    f"3000-{ID}..localhost",
    f"3000-{ID}.sub.localhost",
    f"3000-{ID}.example.com",
    f"3000-{ID}.localhost.evil.com",
    f"3000-{ID}",
    f"user@3000-{ID}.localhost",
    f"a.3000-{ID}.localhost",
    f"2280-{OTHER}.localhost",
    f"3000-{ID[:-1]}.localhost",
    f"3000-{ID}a.localhost",
    f"3000_{ID}.localhost",
    f"3000-{ID[:13]}%6e{ID[14:]}.localhost",
    f"xn--3000-{ID}.localhost",
    "",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("target", ["/", "/_yurt/healthy"])
def test_any_other_spelling_of_a_host_is_misdirected(host: str, target: str) -> None:
    with pytest.raises(RefusedError) as refused:
        ROUTER.find(host.encode(), target.encode())
    assert refused.value.status == 421


@pytest.mark.parametrize("host", [host for host in FOREIGN_HOSTS if f"-{ID}" in host])
def test_a_host_that_misspells_a_preview_is_not_saved_by_its_path(host: str) -> None:
    with pytest.raises(RefusedError):
        ROUTER.find(host.encode(), f"/toolbox/{ID}/files".encode())


@pytest.mark.parametrize(
    ("target", "forwarded", "prefix"),
    [
        (f"/toolbox/{ID}", "/", f"/toolbox/{ID}"),
        (f"/toolbox/{ID}/", "/", f"/toolbox/{ID}"),
        (f"/toolbox/{ID}?a=b", "/?a=b", f"/toolbox/{ID}"),
        (f"/toolbox/{ID}/a//../%2e%2E?b", "/a//../%2e%2E?b", f"/toolbox/{ID}"),
        (f"/toolbox/{ID}//a", "//a", f"/toolbox/{ID}"),
        (f"/toolbox/{ID}/toolbox/{OTHER}/a", f"/toolbox/{OTHER}/a", f"/toolbox/{ID}"),
        (f"/api/toolbox/{ID}/toolbox/files", "/files", f"/api/toolbox/{ID}/toolbox"),
        (f"/api/toolbox/{ID}/toolbox", "/", f"/api/toolbox/{ID}/toolbox"),
    ],
)
@pytest.mark.parametrize("host", ["localhost:9878", "api.example.com", "10.0.0.1:4000", ""])
def test_a_toolbox_path_goes_to_the_agent(
    host: str, target: str, forwarded: str, prefix: str
) -> None:
    expected = Route(TOOLBOX, forwarded.encode(), 2280, prefix.encode())
    assert ROUTER.find(host.encode(), target.encode()) == expected


@pytest.mark.parametrize(
    "target",
    [
        f"/toolbox/{OTHER}/files",
        f"/toolbox/{ID}x/files",
        f"/toolbox/{ID.upper()}/files",
        f"/toolbox/{ID[:-1]}/files",
        f"//toolbox/{ID}/files",
        f"/./toolbox/{ID}/files",
        f"/x/../toolbox/{ID}/files",
        f"/toolbox//{ID}/files",
        f"/toolbox/%61{ID[1:]}/files",
        f"/toolbox/{ID};/files",
        f"/toolbox/{ID}%2ffiles",
        f"/TOOLBOX/{ID}/files",
        f"/api/toolbox/{ID}/files",
        f"/api/toolbox/{ID}/toolboxes",
        f"/api/toolbox/{ID}/toolbox%2f",
        "/toolbox",
        "/",
        "*",
        "/_yurt",
        "/_yurt/message/",
        "/_yurt/message?x",
        "/_YURT/message",
    ],
)
def test_any_other_spelling_of_a_path_is_misdirected(target: str) -> None:
    with pytest.raises(RefusedError) as refused:
        ROUTER.find(b"localhost:9878", target.encode())
    assert refused.value.status == 421


def test_every_path_of_a_preview_belongs_to_the_app() -> None:
    host = f"3000-{ID}.localhost".encode()
    for target in (b"/_yurt/message", b"/_yurt/health", f"/toolbox/{ID}/files".encode(), b"*"):
        assert ROUTER.find(host, target) == Route(PREVIEW, target, 3000)


def test_the_gates_own_addresses() -> None:
    assert ROUTER.find(b"10.0.0.1:4000", b"/_yurt/message").kind == MESSAGE
    assert ROUTER.find(b"10.0.0.1:4000", b"/_yurt/health").kind == HEALTH
