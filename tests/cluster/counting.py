"""A sandbox at work: a process in it writes a line to its disk twice a second.

A line is the mark of the run, a number that rises, and the time. Each run has a mark of its own: if
two ever ran at once on one disk, their lines would mix.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.api import Sandbox

_LINES = "/home/daytona/lines"
_COUNT = """
import itertools, time
with open({lines!r}, "a", buffering=1) as file:
    for number in itertools.count():
        file.write(f"{mark} {{number}} {{time.time():.3f}}\\n")
        time.sleep(0.5)
"""


@dataclass(frozen=True, slots=True)
class Line:
    mark: str
    number: int
    at: float


@dataclass(slots=True, eq=False)
class Counter:
    """Counts in ``sandbox``.

    Attributes:
        marks: of the runs that were begun.
    """

    sandbox: Sandbox
    marks: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Count by a new run; the sandbox has just been started."""
        self.marks.append(secrets.token_hex(4))
        program = _COUNT.format(lines=_LINES, mark=self.marks[-1])
        self.sandbox.upload(program.encode(), "/home/daytona/count.py")
        self.sandbox.background("python3 /home/daytona/count.py")
        eventually(lambda: self._newest() == self.marks[-1], "the first line", seconds=30)

    def _newest(self) -> str:
        _, text = self.sandbox.execute(f"tail -n 1 {_LINES} 2>/dev/null")
        return text.partition(" ")[0]

    def lines(self) -> list[Line]:
        """Read all lines; a last one that was being written when its run was killed is left out."""
        found = []
        for text in self.sandbox.download(_LINES).decode(errors="replace").splitlines():
            words = text.strip("\0").split(" ")
            if len(words) == 3 and words[0] in self.marks:
                found.append(Line(words[0], int(words[1]), float(words[2])))
        return found

    def expect_one_run_at_a_time(self) -> None:
        """Each run's lines stand together, in the order of the runs, and count up."""
        lines = self.lines()
        runs = [(mark, list(group)) for mark, group in groupby(lines, lambda line: line.mark)]
        order = [mark for mark, _ in runs]
        assert order == [mark for mark in self.marks if mark in order], (
            f"{self.sandbox.id}: two runs wrote at once: {order}"
        )
        assert order[-1] == self.marks[-1]
        for _, run in runs:
            assert all(a.number < b.number for a, b in pairwise(run)), self.sandbox.id

    def longest_pause(self, since: float) -> float:
        """How many seconds nothing was written, at most, from a time of the epoch on."""
        times = [line.at for line in self.lines() if line.at > since]
        assert times, f"{self.sandbox.id} wrote nothing"
        return max((b - a for a, b in pairwise([since, *times])), default=0.0)
