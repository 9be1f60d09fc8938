"""Take the tour with every stock SDK, and print call by call what was sent and what came back.

    python -m tests.e2e.sdk [--bytes N] [DRIVER...]

Uses the server that ``DAYTONA_API_URL`` and ``DAYTONA_API_KEY`` name, else starts one of its own
and removes it afterwards. The exit status is not 0 when anything came back wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.sdk.environments import DRIVERS, alone, python_of
from tests.support.instance import Instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).parents[3]
DEFAULT_BYTES = 1 << 30


def drive(
    driver: str, environment: Mapping[str, str], size: int, *, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run one driver in its environment, with nothing of ours in it but the server's address."""
    return subprocess.run(
        [python_of(DRIVERS[driver]), "-m", f"tests.e2e.sdk.{driver}", "--bytes", str(size)],
        cwd=REPOSITORY,
        env=alone(environment),
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def server() -> Iterator[Mapping[str, str]]:
    """Yield the variables that name the server."""
    named = {name: value for name, value in os.environ.items() if name.startswith("DAYTONA_")}
    if "DAYTONA_API_URL" in named:
        yield named
        return
    with Instance.temporary() as instance:
        instance.up()
        yield instance.variables


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the tour with every stock SDK.")
    parser.add_argument("--bytes", type=int, default=DEFAULT_BYTES, help="size of the large file")
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help=", ".join(DRIVERS))
    chosen = parser.parse_args()
    unknown = set(chosen.drivers) - set(DRIVERS)
    if unknown:
        parser.error(f"no such driver: {', '.join(sorted(unknown))}")
    failed = []
    with server() as variables:
        for driver in chosen.drivers or DRIVERS:
            print(f"== {driver}", flush=True)
            if drive(driver, variables, chosen.bytes).returncode:
                failed.append(driver)
    print(f"failed: {', '.join(failed)}" if failed else "every tour came back right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
