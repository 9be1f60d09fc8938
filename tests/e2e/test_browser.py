"""A real browser shows a page with a WebSocket that is served from loopback inside a sandbox."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.instance import REPOSITORY
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from tests.support.api import Api, Sandbox

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parent / "inside" / "page.py"
PORT = 8765
SCREENSHOTS = REPOSITORY / "build" / "screenshots"


def serve(sandbox: Sandbox, text: str) -> tuple[str, dict[str, str]]:
    """Serve the page inside and wait until the preview has it."""
    sandbox.upload(PAGE.read_bytes(), "/tmp/page.py")
    sandbox.background(f"python3 /tmp/page.py {PORT} {text}")
    url, headers = sandbox.preview(PORT)

    def answered() -> bool:
        return httpx.get(url, headers=headers, trust_env=False).status_code == 200

    eventually(answered, f"an answer of {url}", seconds=15)
    return url, headers


def show(browser: BrowserContext, url: str, text: str, name: str) -> None:
    """Open the page, wait for what came over the socket both ways, and keep a picture."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_function("document.getElementById('log').textContent !== ''", timeout=15_000)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    assert page.inner_text("#said") == text
    assert page.inner_text("#log").strip() == f"back: {text}"


def test_a_browser_shows_a_public_page_and_talks_to_its_socket(
    api: Api, browser: BrowserContext
) -> None:
    text = secrets.token_hex(8)
    with api.sandbox(public=True) as sandbox:
        url, _ = serve(sandbox, text)
        show(browser, url, text, "public")


def test_a_browser_opens_a_private_page_by_the_token_in_its_address(
    sandbox: Sandbox, browser: BrowserContext
) -> None:
    text = secrets.token_hex(8)
    url, headers = serve(sandbox, text)
    token = headers["X-Daytona-Preview-Token"]
    show(browser, f"{url}/?DAYTONA_SANDBOX_AUTH_KEY={token}", text, "private")


def test_a_browser_without_a_token_gets_nothing_of_a_private_page(
    sandbox: Sandbox, browser: BrowserContext
) -> None:
    text = secrets.token_hex(8)
    url, _ = serve(sandbox, text)
    page = browser.new_page()
    answer = page.goto(url)
    assert answer is not None
    assert answer.status == 401
    assert text not in page.content()
