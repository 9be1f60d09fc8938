"""A cache outside the repository for what tests make at length: images, root file systems.

Each entry is named by a digest of its recipe, so a changed recipe makes a new entry, and an entry
appears by one rename, so a half-made one is never used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def cache_root() -> Path:
    """Return the cache directory: ``$YURT_TEST_CACHE``, else ``~/.cache/yurt-tests``."""
    chosen = os.environ.get("YURT_TEST_CACHE")
    root = Path(chosen) if chosen else Path.home() / ".cache" / "yurt-tests"
    root.mkdir(parents=True, exist_ok=True)
    return root


def cached(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """Return the directory ``<name>-<digest of recipe>``; ``make`` fills it when it is missing.

    A lock beside the entry makes a second caller wait for the first one instead of making it twice.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    entry = cache_root() / f"{name}-{digest}"
    with (cache_root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if entry.is_dir():
            return entry
        unfinished = entry.with_name(f"{entry.name}.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(entry)
    return entry
