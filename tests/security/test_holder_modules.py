"""What the holder and its guard load: each module is paid for by every sandbox, and trusted."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from jobs.installed import install_runner, interpreter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.security

ALLOWED = {
    "__future__", "__main__", "_abc", "_codecs", "_collections", "_collections_abc",
    "_ctypes", "_frozen_importlib", "_frozen_importlib_external", "_functools", "_imp",
    "_io", "_json", "_opcode", "_operator", "_posixsubprocess", "_sha2", "_sha256",
    "_signal", "_socket", "_sre", "_stat", "_struct", "_thread", "_warnings", "_weakref",
    "abc", "builtins", "codecs", "collections", "copyreg", "ctypes", "encodings", "enum",
    "errno", "fcntl", "functools", "genericpath", "io", "itertools", "jobs", "json",
    "keyword", "marshal", "operator", "os", "posix", "posixpath", "re", "reprlib", "select",
    "stat", "struct", "sys", "time", "types", "winreg", "zipimport",
}  # fmt: skip


def test_holder_and_guard_load_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    root = install_runner(tmp_path).parents[2]
    listing = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import jobs.runner.guard, "
        "jobs.runner.holder; print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [*interpreter(), "-c", listing], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(loaded) - ALLOWED == set()
    assert "jobs" in loaded
