"""Print the table of design.md section 9, as far as its rows exist.

    python -m tests.bench [--times N] [ROW...]

Needs root. The figures are of this machine and this run; compare ratios, not figures of two
machines. What the gate alone costs is printed by ``python -m tests.bench.gate``.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.bench.figures import text
from tests.bench.revoking import revoke
from tests.bench.rows import ON_REQUEST, ROWS, Bench
from tests.support.instance import Instance


def main() -> int:
    known = {row.__name__: row for row in (*ROWS, revoke, *ON_REQUEST)}
    parser = argparse.ArgumentParser(description="Print the figures of Yurt on this machine.")
    parser.add_argument("--times", type=int, default=20, help="how often the slow things are timed")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(known)}")
    chosen = parser.parse_args()
    if unknown := set(chosen.rows) - set(known):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    rows = [known[name] for name in chosen.rows] or (*ROWS, revoke)
    # Its sandboxes are together on a disk that may be small, and write next to nothing.
    with Instance.temporary(YURT_DISK_OVERCOMMIT="100", YURT_MAX_SANDBOXES="200000") as instance:
        seconds = instance.up()
        print(f"{os.cpu_count()} processors; `up` with a first snapshot took {seconds:.0f} s")
        print(f"{'what':<44} {'p50':>8} / {'p95':>8}")
        bench = Bench(instance, chosen.times)
        for row in rows:
            for line in row(bench):
                print(text(line), flush=True)
        bench.api.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
