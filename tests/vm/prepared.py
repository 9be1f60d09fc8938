"""What a machine without network needs and its own network would have brought: Python packages and
the default snapshot, made on a clean Debian 12 by the wrapper itself and kept.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bare import machine
from tests.support.cache import cached

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
HOME = "/root/yurt"
DATA = "/var/lib/yurt"
CERTIFICATES = Path("/usr/local/share/ca-certificates")

# What the wrapper's environment and the default snapshot are made from. The code may change as it
# likes: it is not in what is kept.
_MADE_FROM = (
    *("yurt", "requirements.lock", "pyproject.toml", "sdk/pyproject.toml"),
    *("image/agent/pyproject.toml", "image/slim", "jobs/snapshot.py", "jobs/site.py"),
)

_JOB = f"""#!/bin/bash
set -euo pipefail
git clone --quiet /source {HOME}
cd {HOME}
./yurt up -d
./yurt down
tar -cf /root/venv.tar -C {HOME} .venv
tar -cf /root/images.tar -C {DATA} images
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Directories to copy into the machine."""

    venv: Path
    images: Path

    def copies(self, tree: Path) -> list[tuple[Path, str]]:
        """Say what goes where; ``tree`` is the checkout to test."""
        return [
            (tree, HOME),
            (self.venv, f"{HOME}/.venv"),
            (self.images, f"{DATA}/images"),
            (CERTIFICATES, str(CERTIFICATES)),
        ]


def prepared() -> Prepared:
    """Return what is kept, made now (some minutes, with a network) when it is missing."""
    entry = cached("prepared", f"{machine.SUITE} {_JOB} {_digest()}", _make)
    return Prepared(venv=entry / ".venv", images=entry / "images")


def _make(directory: Path) -> None:
    made = ("root/venv.tar", "root/images.tar")
    result = machine.run(
        _JOB, REPOSITORY, keep={name: directory / Path(name).name for name in made}
    )
    if result.code != 0:
        raise RuntimeError(f"preparing failed: {result.output[-3000:]}")
    for name in made:
        archive = directory / Path(name).name
        subprocess.run(["tar", "-xpf", archive, "-C", directory], check=True)
        archive.unlink()


def checkout(directory: Path) -> Path:
    """Copy what git knows of the working tree, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = REPOSITORY / name, directory / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return directory


def _digest() -> str:
    digest = hashlib.sha256()
    for path in _files():
        digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _files() -> Iterator[Path]:
    for name in _MADE_FROM:
        path = REPOSITORY / name
        yield from sorted(path.rglob("*.*")) if path.is_dir() else [path]
