"""What the gate loads: the standard library's part for asyncio, httptools, and the runner."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from jobs.installed import install_runner, interpreter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.security

# By top-level name; asyncio alone brings most of them. What is not here costs every sandbox
# memory and start-up time, and the gate attack surface.
ALLOWED = {
    "__future__", "__main__", "abc", "array", "ast", "asyncio", "atexit", "base64", "binascii",
    "builtins", "codecs", "collections", "concurrent", "contextlib", "contextvars", "copy",
    "copyreg", "ctypes", "cython_runtime", "dis", "encodings", "enum", "errno", "fcntl",
    "functools", "gc", "genericpath", "grp", "heapq", "httptools", "importlib", "inspect", "io",
    "itertools", "jobs", "json", "keyword", "linecache", "locale", "logging", "marshal", "math",
    "ntpath", "opcode", "operator", "os", "posix", "posixpath", "pwd", "queue", "re", "reprlib",
    "resource", "select", "selectors", "signal", "site", "socket", "stat", "string", "stringprep",
    "struct", "subprocess", "sys", "textwrap", "threading", "time", "token", "tokenize",
    "traceback", "types", "typing", "unicodedata", "warnings", "weakref", "zipimport", "zlib",
}  # fmt: skip


def _loaded(tmp_path: Path) -> set[str]:
    (tmp_path / "lib").mkdir()
    root = install_runner(tmp_path).parents[2]
    code = f"""
import codecs, sys
sys.path[:0] = [{str(root)!r}]
sys.modules["ssl"] = None
from jobs.runner import gate, gate_confine, gate_service
for encoding in gate_service.ENCODINGS:
    codecs.lookup(encoding)
print(*[name for name, module in sys.modules.items() if module is not None])
"""
    command = [*interpreter(), "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_gate_loads_only_what_is_named(tmp_path: Path) -> None:
    tops = {name.partition(".")[0] for name in _loaded(tmp_path)}
    private = {name for name in tops if name.startswith("_")}
    assert tops - private - ALLOWED == set()


def test_the_gate_loads_no_cryptography_library_and_nothing_of_the_server(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path)
    assert not loaded & {"ssl", "_ssl", "hashlib", "_hashlib", "hmac", "random", "dataclasses"}
    runner = {name for name in loaded if name.startswith("jobs.")}
    expected = {"jobs.runner", "jobs.runner.arch", "jobs.runner.message"}
    assert {name for name in runner if not name.startswith("jobs.runner.gate")} == expected
