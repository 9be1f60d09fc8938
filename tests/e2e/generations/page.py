"""The page about which call works in which generation: written from outcomes, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[3] / "sdk" / "GENERATIONS.md"
WORKS, WRONG, REFUSED = "yes", "NO", "refused: "
# What one generation shows: call → cell. A call that it does not have is not in it.
Cells = dict[str, str]

_HEAD = f"""# Which calls of which SDK work

One stock SDK of each generation that differs on the wire, from its registry, makes every public
call that it has for sandboxes, processes, files, git, previews, language servers, volumes and
snapshots, with fresh content, and compares what comes back. `./yurt test --tier generations` makes
all calls again and compares; `python -m tests.e2e.generations --write` writes this page.

* `{WORKS}`: it works;
* `{REFUSED}...`: the server refuses, with an error that says so in these words (`Cannot GET` and
  the like: it has no such call, see `docs/api.md`);
* `{WRONG}`: it does not work;
* empty: this generation has no such call.

The tables leave out what is not about one of these (computer use, recordings, secrets, warm pools,
the object storage of build contexts), and `snapshot.create`, which needs a registry of images:
`tests/e2e/test_snapshots.py` has one. Of `recover` they show that it refuses what is not broken.
"""


def cell(outcome: str) -> str:
    """Show one outcome of ``visit.py``."""
    if outcome == "works":
        return WORKS
    return outcome if outcome.startswith(REFUSED) else WRONG


def render(columns: Mapping[str, Cells]) -> str:
    """Write the page: one table for Python, one for TypeScript, whose packages begin with @."""
    python = {title: cells for title, cells in columns.items() if title[0] != "@"}
    others = {title: cells for title, cells in columns.items() if title[0] == "@"}
    parts = [_HEAD]
    parts += [_table("Python", python)] if python else []
    parts += [_table("TypeScript", others)] if others else []
    return "\n".join(parts)


def _table(language: str, columns: Mapping[str, Cells]) -> str:
    calls = sorted(
        {call for cells in columns.values() for call in cells},
        key=lambda call: ("." in call, call.partition(".")[0] != "sandbox", call),
    )
    rows = [["call", *columns], ["---"] * (len(columns) + 1)]
    rows += [[f"`{call}`", *(cells.get(call, "") for cells in columns.values())] for call in calls]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"## {language}", "", *lines]) + "\n"


def parse(text: str) -> dict[str, Cells]:
    """Read a page: what each column shows."""
    found: dict[str, Cells] = {}
    titles: list[str] = []
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        first, *others = [part.strip() for part in line.strip("|").split("|")]
        if first == "call":
            titles = others
            found |= {title: {} for title in titles}
        elif first != "---":
            for title, shown in zip(titles, others, strict=True):
                if shown:
                    found[title][first.strip("`")] = shown
    return found
