"""The generations of SDK that differ on the wire, each visited in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.sdk.environments import NODE, alone, modules_with, python_with

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY = Path(__file__).parents[3]
SECONDS = 600


class VisitError(Exception):
    """An SDK did not get to the end of its calls."""


@dataclass(frozen=True, slots=True)
class Column:
    """One generation: a package of PyPI or npm at one version, with await or without."""

    package: str
    with_await: bool = False

    @property
    def in_python(self) -> bool:
        return "==" in self.package

    @property
    def title(self) -> str:
        name = self.package.replace("==", " ") if self.in_python else self.package
        return f"{name} async" if self.with_await else name


COLUMNS = (
    Column("daytona-sdk==0.21.0"),
    Column("daytona-sdk==0.21.0", with_await=True),
    Column("daytona-sdk==0.25.6"),
    Column("daytona==0.27.1"),
    Column("daytona==0.105.1"),
    Column("daytona==0.115.2"),
    Column("daytona==0.115.2", with_await=True),
    Column("daytona==0.130.0"),
    Column("daytona==0.143.0"),
    Column("daytona==0.155.0"),
    Column("daytona==0.170.0"),
    Column("daytona==0.190.0"),
    Column("daytona==0.226.1"),
    Column("daytona==0.226.1", with_await=True),
    Column("@daytonaio/sdk@0.21.0"),
    Column("@daytona/sdk@0.216.0"),
)


def visit(column: Column, variables: Mapping[str, str]) -> dict[str, str]:
    """Make every call of one generation; return call → outcome, as ``visit.py`` prints it.

    Raises:
        VisitError: it did not get to its end.
    """
    command: list[str | Path]
    if column.in_python:
        directory = REPOSITORY
        command = [python_with(column.package), "-m", "tests.e2e.generations.visit"]
        command += ["--async"] if column.with_await else []
    else:
        directory = modules_with(column.package)
        package = column.package.rpartition("@")[0]
        command = [NODE, Path(__file__).parent / "typescript" / "calls.mjs", package]
    try:
        ran = subprocess.run(
            command,
            cwd=directory,
            env=alone(variables),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode()[-4000:]
        raise VisitError(f"{column.title} did not end in {SECONDS} s:\n{said}") from error
    if ran.returncode:
        raise VisitError(f"{column.title} ended with {ran.returncode}:\n{ran.stderr[-4000:]}")
    outcomes: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return outcomes
