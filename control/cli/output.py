"""What server commands print: steps with their times to standard error, results to standard output.

On a terminal a step that runs shows what it is at; elsewhere every line stays as it is.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from control.errors import YurtError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from control.settings import Settings


_UNCUT = 400


class Output:
    """One command's output; ``as_json`` replaces the text of the result by one JSON object."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Print a line for people."""
        self._console.print(escape(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line for people that wants to be read."""
        self._console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show a step while it runs, and its time when it is done; yields what tells its state."""
        begin = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(escape(title)) as status:
                yield lambda text: status.update(escape(f"{title}: {text}"))
        else:
            self.say(f"{title} ...")
            yield lambda text: self.say(f"  {text}")
        self.say(f"{title}: done in {time.monotonic() - begin:.1f} s")

    def result(self, fields: Mapping[str, object], text: str) -> None:
        """Print what the command was run for."""
        typer.echo(json.dumps(fields, indent=2) if self._as_json else text)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under titles; without a terminal nothing is cut: a program may read it."""
    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else _UNCUT).print(table)


@contextmanager
def failures_told() -> Iterator[None]:
    """Turn what is raised on purpose into one line on standard error and exit code 1."""
    try:
        yield
    except YurtError as error:
        typer.echo(f"yurt: {error}", err=True)
        sys.exit(1)


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        YurtError: one of them is wrong; the text names it.
    """
    from control.settings import Settings

    try:
        settings = Settings()
    except ValidationError as exc:
        problems = []
        for error in exc.errors():
            name = "_".join(["YURT", *(str(part).upper() for part in error["loc"])])
            message = error["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {message}" if error["loc"] else message)
        raise YurtError("; ".join(problems)) from exc
    if not settings.data.is_absolute():
        message = f"YURT_DATA: {settings.data} must be an absolute path"
        raise YurtError(message)
    return settings
