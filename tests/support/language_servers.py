"""The real language servers from their registries, in the cache of the tests."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.cache import cached

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = ("jedi-language-server==0.47.0",)
NODE = ("typescript-language-server@5.1.3", "typescript@5.9.3")


def language_servers() -> Path:
    """Return a directory of programs with the servers for Python and TypeScript."""
    return cached("language-servers", " ".join((*PYTHON, *NODE, sys.version)), _make) / "bin"


def _make(root: Path) -> None:
    environment = root / "python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip: list[str | Path] = [environment / "bin/python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", *PYTHON], check=True)
    npm: list[str | Path] = [
        "npm",
        "install",
        "--silent",
        "--ignore-scripts",
        "--prefix",
        root / "node",
    ]
    subprocess.run([*npm, *NODE], check=True)
    (root / "bin").mkdir()
    script = "import sys; from jedi_language_server.cli import cli; sys.exit(cli())"
    program = root / "bin/jedi-language-server"
    # Found from where it lies: the environment's own script holds the path before the rename.
    program.write_text(
        f'#!/bin/sh\nexec "$(dirname "$0")/../python/bin/python" -c "{script}" "$@"\n'
    )
    program.chmod(0o755)
    target = "../node/node_modules/typescript-language-server/lib/cli.mjs"
    (root / "bin/typescript-language-server").symlink_to(target)
