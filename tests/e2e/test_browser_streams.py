"""What a real browser gets through Traefik and gate: other origins' answers, events, much data."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.inside import streams
from tests.e2e.served import PORT, Served, status
from tests.support.processes import listeners_on
from traefik.files import FileRegistry
from traefik.process import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Page

    from tests.support.api import Api, Sandbox
    from tests.support.instance import Instance
    from tests.support.processes import Process

pytestmark = pytest.mark.e2e

PROGRAM = "streams.py"
MOST_BYTES = 64 << 20  # more than any buffer on the way, and little of what passes
FETCH = """async ([url, more]) => {
    try {
        const answer = await fetch(url, more);
        return await answer.text();
    } catch (error) { return "refused"; }
}"""
LISTEN = """() => new Promise((done, failed) => {
    const heard = [];
    const events = new EventSource("/events");
    events.onmessage = async (event) => {
        heard.push(event.data);
        await fetch("/heard", {method: "POST"});
        if (heard.length === 5) { events.close(); done(heard); }
    };
    events.onerror = () => failed(new Error("after " + heard));
})"""


@pytest.fixture(scope="module")
def sites(api: Api) -> Iterator[tuple[Served, Served]]:
    """The program on two ports of one sandbox: two origins."""
    with api.sandbox() as sandbox:
        yield Served(sandbox, PROGRAM), Served(sandbox, PROGRAM, PORT + 1)


@pytest.fixture(scope="module")
def between(embedded: Instance, sites: tuple[Served, Served]) -> list[Process]:
    """Traefik, and whoever holds the listener of the sandbox's gate."""
    registry = FileRegistry(Layout(embedded.data / "traefik").dynamic)
    (port,) = (
        route.port
        for route in asyncio.run(registry.routes())
        if route.sandbox_id == sites[0].sandbox.id
    )
    return [*listeners_on(embedded.port), *listeners_on(port)]


@pytest.fixture
def site(sites: tuple[Served, Served], browser: BrowserContext) -> Page:
    """A browser that shows a page of the first."""
    show(sites[0].sandbox, public=False)
    page = browser.new_page()
    assert status(page, sites[0].with_token) == 200
    return page


def show(sandbox: Sandbox, *, public: bool) -> None:
    answer = sandbox.api.call("POST", f"/sandbox/{sandbox.id}/public/{str(public).lower()}")
    assert answer.status_code == 200, answer.text


def methods(seen: list[dict[str, Any]], path: str) -> list[str]:
    """The methods by which a path was asked for."""
    lines = [head["line"].split() for head in seen]
    return [method for method, target, _ in lines if target.partition("?")[0] == path]


def test_an_application_decides_itself_which_pages_may_call_it(
    sites: tuple[Served, Served], browser: BrowserContext
) -> None:
    here, other = sites
    show(here.sandbox, public=True)
    page = browser.new_page()
    assert status(page, f"{here.url}/page") == 200
    own, foreign = (f"{other.url}/own?origin={origin}" for origin in (here.url, other.url))
    more: dict[str, Any] = {"method": "PUT", "headers": {"X-Own": "1"}, "credentials": "include"}
    assert page.evaluate(FETCH, [own, more]) == "changed"
    assert methods(other.seen(), "/own") == ["OPTIONS", "PUT"]
    # What its preflight does not allow is never sent: another origin, another field.
    assert page.evaluate(FETCH, [foreign, more]) == "refused"
    assert page.evaluate(FETCH, [own, {**more, "headers": {"X-Other": "1"}}]) == "refused"
    assert methods(other.seen(), "/own") == ["OPTIONS", "PUT", "OPTIONS", "OPTIONS"]
    # For an application that knows nothing of other origins the gate answers: all, without cookies.
    plain = {"method": "PUT", "headers": {"X-Own": "1"}}
    assert page.evaluate(FETCH, [f"{other.url}/plain", plain]) == "changed"
    assert page.evaluate(FETCH, [f"{other.url}/plain", more]) == "refused"
    assert methods(other.seen(), "/plain").count("PUT") == 1


def test_a_private_preview_is_called_from_another_origin_by_its_token_alone(
    sites: tuple[Served, Served], site: Page
) -> None:
    _, other = sites
    url = f"{other.url}/private"
    more: dict[str, Any] = {"method": "PUT", "headers": {"X-Own": "1"}}
    with_token = {**more, "headers": {**more["headers"], **other.headers}}
    assert site.evaluate(FETCH, [url, more]) == "refused"
    assert methods(other.seen(), "/private") == []
    assert site.evaluate(FETCH, [url, with_token]) == "changed"
    # The preflight, which has no token, was the gate's to answer.
    assert methods(other.seen(), "/private") == ["PUT"]


def test_each_event_arrives_before_the_next_one_is_sent(site: Page) -> None:
    assert site.evaluate(LISTEN) == ["0", "1", "2", "3", "4"]


def test_half_a_gigabyte_is_downloaded_whole_and_kept_nowhere_on_its_way(
    sites: tuple[Served, Served], between: list[Process], site: Page
) -> None:
    before = [process.begin_peak() for process in between]
    with site.expect_download(timeout=120_000) as waited:
        site.evaluate("url => { location = url }", f"{sites[0].url}/large")
    with waited.value.path().open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == streams.digest()
    assert waited.value.failure() is None
    grown = [process.peak_bytes() - begin for process, begin in zip(between, before, strict=True)]
    assert max(grown) < MOST_BYTES
