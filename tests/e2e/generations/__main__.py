"""Make every call of every generation of stock SDK, and write the page about it.

    python -m tests.e2e.generations [--write] [--server URL --key KEY] [TITLE...]

Uses the server that ``--server`` or ``DAYTONA_API_URL`` names, else one of its own. TITLE names a
column of the page, such as ``daytona 0.190.0``; ``--write`` changes those columns and leaves the
others. The exit status is not 0 when a call goes wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from tests.e2e.generations.columns import COLUMNS, VisitError, visit
from tests.e2e.generations.page import PAGE, WRONG, Cells, cell, parse, render
from tests.e2e.sdk.__main__ import server
from tests.support.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> int:
    parser = argparse.ArgumentParser(description="Make every call of every generation of SDK.")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--server", default="", help="base URL of a server to test")
    parser.add_argument("--key", default="", help="its API key")
    parser.add_argument("titles", nargs="*", metavar="TITLE", help="columns, by default all")
    chosen = parser.parse_args()
    if bool(chosen.server) != bool(chosen.key):
        parser.error("--server and --key go together")
    if unknown := set(chosen.titles) - {column.title for column in COLUMNS}:
        parser.error(f"no such column: {', '.join(sorted(unknown))}")
    remote = contextlib.nullcontext(Remote(chosen.server, chosen.key).variables)
    with remote if chosen.server else server() as variables:
        seen = _visit(chosen.titles, variables)
        if chosen.write:
            known = (parse(PAGE.read_text()) if PAGE.exists() else {}) | seen
            order = [column.title for column in COLUMNS if column.title in known]
            PAGE.write_text(render({title: known[title] for title in order}))
    return any(WRONG in cells.values() or not cells for cells in seen.values())


def _visit(titles: list[str], variables: Mapping[str, str]) -> dict[str, Cells]:
    """Visit these columns, say what went wrong, and return what each shows."""
    seen: dict[str, Cells] = {}
    for column in COLUMNS:
        if titles and column.title not in titles:
            continue
        try:
            outcomes = visit(column, variables)
        except VisitError as error:
            print(error, flush=True)
            outcomes = {}
        seen[column.title] = {call: cell(outcome) for call, outcome in outcomes.items()}
        wrong = [call for call, shown in seen[column.title].items() if shown == WRONG]
        print(f"{column.title}: {len(wrong)} of {len(outcomes)} calls went wrong", flush=True)
        for call in wrong:
            print(f"    {call}: {outcomes[call]}", flush=True)
    return seen


if __name__ == "__main__":
    sys.exit(main())
