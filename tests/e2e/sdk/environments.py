"""A virtual environment for each generation of SDK, made from a hash-pinned list.

They lie in ``.venv-sdk/`` of the checkout and are made again when their list or the Python changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

LISTS = Path(__file__).parent / "requirements"
HOME = Path(__file__).parents[3] / ".venv-sdk"
# Driver module to the environment that it runs in.
DRIVERS = {"newest_sync": "newest", "newest_async": "newest", "v0_21_async": "v0_21"}


def python_of(environment: str) -> Path:
    """Return the Python of an environment, made now (half a minute) when it is missing."""
    HOME.mkdir(exist_ok=True)
    # It ignores itself, so no list elsewhere has to know of it.
    (HOME / ".gitignore").write_text("*\n")
    listed = LISTS / f"{environment}.txt"
    wanted = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()
    directory, stamp = HOME / environment, HOME / f"{environment}.stamp"
    python = directory / "bin" / "python"
    with (HOME / f"{environment}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"making {directory} ...", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
            install: list[str | Path] = [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run([*install, "--require-hashes", "--requirement", listed], check=True)
            stamp.write_text(wanted)
    return python
