"""A program of ``inside`` that serves pages in a sandbox, and how a browser is sent to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.support.api import Sandbox

PORT = 8765
PROGRAMS = Path(__file__).parent / "inside"


class Served:
    """The pages of one program in one sandbox, and what it saw."""

    def __init__(self, sandbox: Sandbox, program: str = "seen.py", port: int = PORT) -> None:
        self.sandbox, self._program, self._port = sandbox, program, port
        sandbox.upload((PROGRAMS / program).read_bytes(), f"/tmp/{program}")
        self.begin()
        self.url, self.headers = sandbox.preview(port)
        eventually(lambda: self.ask("/seen").status_code == 200, "it listens", seconds=30)

    def begin(self) -> None:
        self.sandbox.background(f"python3 /tmp/{self._program} {self._port}")

    def begin_again(self) -> None:
        self.sandbox.wait_for("started", 60)
        self.begin()

    @property
    def with_token(self) -> str:
        return f"{self.url}/page?a=1&DAYTONA_SANDBOX_AUTH_KEY={self.token}#part"

    @property
    def token(self) -> str:
        return self.headers["X-Daytona-Preview-Token"]

    def ask(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers | headers, trust_env=False)

    def seen(self) -> list[dict[str, Any]]:
        """The heads that its program saw, but for what browsers ask for by themselves."""
        found: list[dict[str, Any]] = self.ask("/seen").json()
        return [head for head in found if "/favicon.ico" not in head["line"]]


def status(page: Page, url: str) -> int:
    """Open a page and tell the status of its answer."""
    answer = page.goto(url)
    assert answer is not None
    return answer.status
