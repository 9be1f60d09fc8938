"""Which requests are somebody's use of a sandbox, and which a page's own doing."""

from __future__ import annotations

import pytest

from control.waking import is_use
from jobs.runner.gate_cookie import is_navigation

pytestmark = pytest.mark.unit

NAVIGATION = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "accept": "text/html"}
BACKGROUND = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
PLAIN_PAGE = {"upgrade-insecure-requests": "1", "accept": "text/html"}
SOCKET = {"upgrade": "websocket", "sec-fetch-site": "same-origin", "sec-fetch-mode": "websocket"}
SKIP = {"x-daytona-skip-last-activity-update": "true"}


def sent(fields: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in fields.items()}


@pytest.mark.parametrize(
    ("fields", "is_preview", "has_credential", "expected"),
    [
        ({}, False, True, True),
        (SKIP, False, True, False),
        (BACKGROUND, False, True, True),
        ({}, True, True, True),
        ({}, True, False, False),
        (NAVIGATION, True, False, True),
        (NAVIGATION | SKIP, True, True, False),
        (NAVIGATION | {"sec-purpose": "prefetch;prerender"}, True, False, False),
        (PLAIN_PAGE, True, False, True),
        (BACKGROUND, True, False, False),
        (BACKGROUND, True, True, False),
        (SOCKET, True, False, True),
        # What Node.js sends of itself is no word of a browser.
        ({"sec-fetch-mode": "cors"}, True, True, True),
    ],
)
def test_what_counts_as_use(
    fields: dict[str, str], is_preview: bool, has_credential: bool, expected: bool
) -> None:
    found = is_use(sent(fields), is_preview=is_preview, has_credential=has_credential)
    assert found is expected


def test_a_page_in_a_frame_is_opened_by_somebody_and_its_parts_are_not() -> None:
    assert is_navigation(sent(NAVIGATION | {"sec-fetch-dest": "iframe"}))
    assert not is_navigation(sent({"sec-fetch-site": "none", "sec-fetch-mode": "no-cors"}))
