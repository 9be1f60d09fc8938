"""HTTP without an SDK: what a browser does, and calls that not every generation has."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request

from tests.e2e.generations.visit import expect


def fetch(
    url: str, headers: dict[str, str], content: bytes | None = None, method: str | None = None
) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, headers=headers, data=content, method=method)
    try:
        with opener.open(asked, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def status_of(url: str) -> int:
    return (await asyncio.to_thread(fetch, url, {}))[0]


async def ask(method: str, path: str, body: dict[str, str] | None = None) -> dict[str, object]:
    """Make a call that not every generation has."""
    headers = {
        "Authorization": f"Bearer {os.environ['DAYTONA_API_KEY']}",
        "Content-Type": "application/json",
    }
    url = f"{os.environ['DAYTONA_API_URL']}{path}"
    content = None if body is None else json.dumps(body).encode()
    status, text = await asyncio.to_thread(fetch, url, headers, content, method)
    expect(f"status of {method} {path}", status in {200, 204}, wanted=True)
    return dict(json.loads(text)) if text else {}
