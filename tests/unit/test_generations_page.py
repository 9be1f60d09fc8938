"""The page about generations of SDK: what is written can be read, and it is about all of them."""

from __future__ import annotations

import pytest

from tests.e2e.generations.columns import COLUMNS
from tests.e2e.generations.page import PAGE, WRONG, cell, parse, render

pytestmark = pytest.mark.unit


def test_what_is_written_is_read_again() -> None:
    said = {"works": "yes", "refused: Cannot GET": "refused: Cannot GET", "untried": WRONG}
    assert {outcome: cell(outcome) for outcome in said} == said
    columns = {
        "one 1": {"create": "yes", "fs.list": "refused: no"},
        "two 2": {"create": WRONG},
        "@three@3": {"fs.list": "yes"},
    }
    text = render(columns)
    assert "| `create` | yes | NO |" in text
    assert "| `fs.list` | refused: no |  |" in text
    assert parse(text) == columns


def test_the_page_shows_every_generation_and_nothing_that_goes_wrong() -> None:
    shown = parse(PAGE.read_text())
    assert list(shown) == [column.title for column in COLUMNS]
    assert {title for title, cells in shown.items() if WRONG in cells.values()} == set()
    assert all("create" in cells for cells in shown.values())
