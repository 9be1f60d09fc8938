"""Private previews in a real browser: how it gets in, who does not, and what wakes a sandbox."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.e2e.served import PORT, Served, status
from tests.support.processes import holder_of_lock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from tests.support.api import Api, Sandbox
    from tests.support.instance import Instance
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e

FETCH = """async ([url, more]) => {
    try {
        const answer = await fetch(url, more);
        return answer.type === "opaque" ? "opaque" : await answer.text();
    } catch (error) { return "refused"; }
}"""


def test_a_token_in_the_address_becomes_a_cookie_that_nobody_inside_sees(
    sandbox: Sandbox, browser: BrowserContext
) -> None:
    served = Served(sandbox)
    page = browser.new_page()
    assert status(page, served.with_token) == 200
    assert page.url == f"{served.url}/page?a=1#part"
    (cookie,) = browser.cookies(served.url)
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert cookie["domain"] == urlsplit(served.url).hostname  # no dot before it: this host alone
    assert served.token not in cookie["value"]
    page.evaluate("document.cookie = 'own=1'")
    assert status(page, f"{served.url}/again") == 200
    assert page.evaluate(FETCH, ["/part", {"method": "POST", "body": "x"}]).startswith("<!doctype")
    heads = served.seen()
    assert [head["line"].split()[1] for head in heads] == ["/page?a=1", "/again", "/part"]
    assert heads[-1]["fields"]["Cookie"] == "own=1"
    for secret in (served.token, cookie["value"]):
        assert secret not in str(heads)


def test_whoever_has_no_token_can_enter_a_key(
    server: Server, sandbox: Sandbox, browser: BrowserContext
) -> None:
    served = Served(sandbox)
    page = browser.new_page()
    assert status(page, f"{served.url}/page") == 401
    assert "private" in page.inner_text("h1")
    page.fill("input", "wrong")
    page.click("button")
    assert "private" in page.inner_text("h1")
    page.fill("input", server.key)
    page.click("button")
    assert page.inner_text("h1") == "inside"
    assert server.key not in page.url
    assert len(served.seen()) == 1


def test_a_cookie_opens_no_other_sandbox_and_no_other_port(
    api: Api, sandbox: Sandbox, browser: BrowserContext
) -> None:
    served = Served(sandbox)
    page = browser.new_page()
    assert status(page, served.with_token) == 200
    (cookie,) = browser.cookies(served.url)
    with api.sandbox() as other:
        hosts = (other.preview(PORT)[0], other.preview(PORT + 1)[0], sandbox.preview(PORT + 1)[0])
        for url in hosts:
            assert status(page, url) == 401
            browser.add_cookies([{"name": cookie["name"], "value": cookie["value"], "url": url}])
            assert status(page, url) == 401


def test_a_page_elsewhere_neither_reads_nor_changes_a_private_preview(
    api: Api, sandbox: Sandbox, browser: BrowserContext
) -> None:
    private = Served(sandbox)
    page = browser.new_page()
    assert status(page, private.with_token) == 200
    with api.sandbox(public=True) as other:
        hostile = Served(other)
        assert status(page, hostile.url) == 200
        before = private.seen()
        for more in (
            {"credentials": "include"},
            {"credentials": "include", "method": "POST", "body": "x"},
        ):
            assert page.evaluate(FETCH, [f"{private.url}/steal", more]) == "refused"
            blind = {**more, "mode": "no-cors"}
            assert page.evaluate(FETCH, [f"{private.url}/steal", blind]) in {"opaque", "refused"}
        page.evaluate("url => { new Image().src = url }", private.url)
        page.set_content(f'<form method="post" action="{private.url}/steal"><button>')
        with page.expect_navigation():
            page.click("button")
        assert private.seen() == before
    link = browser.new_page()
    assert status(link, f"{private.url}/followed") == 200


def test_a_signed_link_opens_its_page_until_it_expires(
    sandbox: Sandbox, browser: BrowserContext
) -> None:
    served = Served(sandbox)
    path = f"/sandbox/{sandbox.id}/ports/{PORT}/signed-preview-url"
    said = sandbox.api.call("GET", path, params={"expiresInSeconds": 15}).json()
    page = browser.new_page()
    assert status(page, f"{said['url']}/page") == 200
    assert page.evaluate(FETCH, ["/part", {}]).startswith("<!doctype")
    assert browser.cookies(said["url"]) == []
    before = len(served.seen())
    eventually(lambda: "401" in page.evaluate(FETCH, ["/seen", {}]), "its end", seconds=30)
    assert status(page, f"{said['url']}/page") == 401
    assert len(served.seen()) == before == 2


@pytest.mark.parametrize("rest", ["stopped", "archived"])
def test_a_page_that_is_opened_wakes_its_sandbox_and_one_left_open_does_not(
    api: Api, embedded: Instance, browser: BrowserContext, rest: str
) -> None:
    with api.sandbox() as sandbox:
        served = Served(sandbox)
        page = browser.new_page()
        assert status(page, f"{served.url}/polling?DAYTONA_SANDBOX_AUTH_KEY={served.token}") == 200
        eventually(lambda: len(served.seen()) > 3, "it polls", seconds=15)
        holder_of_lock(embedded.data / "run" / "sandboxes" / sandbox.id / "lock").kill()
        sandbox.wait_for("stopped")
        if rest == "archived":
            assert sandbox.act("archive").status_code == 200
            sandbox.wait_for("archived", 60)
        asked: list[int] = []
        page.on("response", lambda answer: asked.append(answer.status))
        page.wait_for_timeout(2000)
        assert len(asked) > 3
        assert set(asked) <= {502, 503}
        assert sandbox.record()["state"] == rest
        page.close()
        opened = browser.new_page()
        with ThreadPoolExecutor() as meanwhile:
            # As its entrypoint would, a moment after the start.
            serving = meanwhile.submit(served.begin_again)
            # Where a restore takes long, what comes first says so and looks again by itself.
            assert status(opened, f"{served.url}/page") in {200, 503}
            opened.wait_for_selector("h1:text-is('inside')", timeout=60_000)
            serving.result()
        assert sandbox.record()["state"] == "started"


def test_a_page_of_what_was_stopped_by_its_owner_says_so_and_wakes_nothing(
    sandbox: Sandbox, browser: BrowserContext
) -> None:
    served = Served(sandbox)
    page = browser.new_page()
    assert status(page, served.with_token) == 200
    sandbox.stop()
    assert status(page, f"{served.url}/page") == 503
    assert page.inner_text("h1") == "This sandbox is not started"
    assert sandbox.record()["state"] == "stopped"
