"""Both commands of the README on a clean Debian 12 with nothing but git and python3.

    python -m tests.bare [--without-tests]

Clones what is committed here, runs ``./yurt up -d``, pastes what it says to try, prints the time
from the clone to the first sandbox, then runs ``./yurt test`` and removes everything. By hand: it
takes long, and needs the package registries.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.bare.machine import run

REPOSITORY = Path(__file__).parents[2]

JOB = """#!/bin/bash
set -euo pipefail
began=$(date +%s)
git clone --quiet /source yurt
cd yurt
./yurt up -d | tee /root/up.log
echo "== from the clone to the first sandbox: $(($(date +%s) - began)) s"

# What a reader pastes: the indented lines below "Try it:".
sed -n '/^Try it:/,/^$/s/^  *//p' /root/up.log > /root/snippet
echo "== pasting:"
cat /root/snippet
test -s /root/snippet
bash -euo pipefail /root/snippet
echo "== the snippet worked"
"""

TESTS = """
./yurt test
echo "== the tests passed"
"""

END = """
./yurt down --purge
test ! -e /var/lib/yurt
echo "== nothing is left"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Try the README on a clean machine.")
    parser.add_argument("--without-tests", action="store_true", help="leave `./yurt test` out")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was made is taken away on the way
    job = JOB + ("" if chosen.without_tests else TESTS) + END
    result = run(job, REPOSITORY, progress=lambda text: print(text, end="", flush=True))
    print(f"exit status {result.code} after {result.seconds:.0f} s")
    return 0 if result.code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
