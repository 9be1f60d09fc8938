"""Lends what takes long to make to new instances: the default snapshot and the agent's bundle.

Both are named by a digest of their recipe, so one that is out of date is never taken for another,
and never changed once they are there, so that all instances can have the same files.
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

_BUNDLES = "lib/agent-*"


def borrow(data: Path) -> None:
    """Lend what is kept to a data directory that has no images."""
    with _locked() as kept:
        if (data / "images").exists() or not any(kept.glob("images/*.json")):
            return
        data_directory(data)
        _link(kept / "images", data / "images")
        (data / "lib").mkdir(exist_ok=True)
        for bundle in kept.glob(_BUNDLES):
            _link(bundle, data / bundle.relative_to(kept))


def keep(data: Path) -> None:
    """Keep the images and the bundle of a data directory, in place of older ones."""
    with _locked() as kept:
        if _names(data) == _names(kept):
            return
        shutil.rmtree(kept)
        (kept / "lib").mkdir(parents=True)
        for bundle in data.glob(_BUNDLES):
            _link(bundle, kept / bundle.relative_to(data))
        _link(data / "images", kept / "images")


def _names(directory: Path) -> set[str]:
    found = [*directory.glob("images/*.json"), *directory.glob(_BUNDLES)]
    return {str(path.relative_to(directory)) for path in found}


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
    directory = cache_root() / "made"
    directory.mkdir(exist_ok=True)
    with (cache_root() / "made.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def _copy(source: Path, target: Path) -> None:
    # Owners, attributes and links as they are; sparse files stay sparse.
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


def _link(source: Path, target: Path) -> None:
    """Make a tree of links to the same files, or of copies where links cannot be."""
    linked = subprocess.run(["cp", "-al", source, target], capture_output=True, check=False)
    if linked.returncode:
        shutil.rmtree(target, ignore_errors=True)
        _copy(source, target)
