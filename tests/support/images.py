"""Lends made images to new instances: making the default snapshot takes more than a minute.

An image's id is a digest of its recipe, so one that is out of date is never taken for another.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
from typing import TYPE_CHECKING

from control.cli.prepare import data_directory
from tests.support.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def borrow(data: Path) -> None:
    """Copy the kept images into a data directory that has none."""
    with _locked() as kept:
        if not (data / "images").exists() and any(kept.glob("*.json")):
            data_directory(data)
            _copy(kept, data / "images")


def keep(data: Path) -> None:
    """Keep the images of a data directory, in place of older ones."""
    with _locked() as kept:
        mine = {path.name for path in (data / "images").glob("*.json")}
        if mine == {path.name for path in kept.glob("*.json")}:
            return
        shutil.rmtree(kept)
        _copy(data / "images", kept)


@contextlib.contextmanager
def registry() -> Iterator[Path]:
    """Yield the kept files of a registry that has a published image; maybe none."""
    with _locked():
        directory = cache_root() / "registry"
        directory.mkdir(exist_ok=True)
        yield directory


def keep_registry(store: Path, kept: Path, image_id: str) -> None:
    """Keep a registry's files, in place of older ones, if this image is not among those."""
    mark = kept / f"{image_id}.published"
    if mark.exists():
        return
    shutil.rmtree(kept)
    _copy(store, kept)
    mark.touch()


@contextlib.contextmanager
def _locked() -> Iterator[Path]:
    directory = cache_root() / "images"
    directory.mkdir(exist_ok=True)
    with (cache_root() / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def _copy(source: Path, target: Path) -> None:
    # Owners, attributes and links as they are; sparse files stay sparse.
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
