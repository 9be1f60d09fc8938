"""Each generation of stock SDK makes every call that it has, and the page about it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.generations.columns import COLUMNS, Column, visit
from tests.e2e.generations.page import PAGE, WRONG, cell, parse

if TYPE_CHECKING:
    from tests.support.remote import Server

pytestmark = [pytest.mark.generations, pytest.mark.timeout(900)]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.title)
def test_every_call_of_a_generation(
    server: Server, column: Column, request: pytest.FixtureRequest
) -> None:
    outcomes = visit(column, server.variables)
    shown = {call: cell(outcome) for call, outcome in outcomes.items()}
    assert {call: outcomes[call] for call, seen in shown.items() if seen == WRONG} == {}
    # The page is about an embedded server. Another one may have no object store, and says so.
    if not request.config.getoption("server"):
        assert parse(PAGE.read_text())[column.title] == shown
