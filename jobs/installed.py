"""Install the runner as an immutable directory, named by what is in it.

A sandbox keeps the runner that it was started with, also across an upgrade, and the runner loads
only what is in this directory and the standard library.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
import sys
from importlib.metadata import files, version
from pathlib import Path

import httptools

_SOURCE = Path(__file__).parent
_DIGEST_CHARACTERS = 16
# The object store's client and the ciphers, with what they import.
_TOOLS = ("obstore", "cryptography", "cffi", "typing-extensions")


def interpreter() -> list[str]:
    """Return the command that runs a runner: the base interpreter, without site packages."""
    return [os.path.realpath(sys.executable), "-I", "-S"]


def install_runner(data: Path) -> Path:
    """Put the runner below ``<data>/lib``, if it is not there yet, and return its ``main.py``."""
    files = _files()
    digest = hashlib.sha256(sys.version.encode())
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    directory = data / "lib" / f"runner-{digest.hexdigest()[:_DIGEST_CHARACTERS]}"
    if not directory.exists():
        temporary = directory.with_name(f"{directory.name}.{os.getpid()}.new")
        for name, path in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        compileall.compile_dir(
            temporary,
            quiet=1,
            stripdir=str(temporary),
            prependdir=str(directory),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        try:
            temporary.rename(directory)
        except OSError:
            shutil.rmtree(temporary)  # another process was faster
    return directory / "jobs" / "runner" / "main.py"


def install_tools(data: Path) -> Path:
    """Put the packages that only one-shot work uses below ``<data>/lib``, and return where.

    Named by their versions, which the lock pins.
    """
    versions = [sys.version, *(f"{name} {version(name)}" for name in _TOOLS)]
    digest = hashlib.sha256("\n".join(versions).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    directory = data / "lib" / f"tools-{digest}"
    if not directory.exists():
        temporary = directory.with_name(f"{directory.name}.{os.getpid()}.new")
        for name in _TOOLS:
            for path in files(name) or []:
                if path.suffix in {".py", ".so"} and ".." not in path.parts:
                    target = temporary / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path.locate(), target)
        try:
            temporary.rename(directory)
        except OSError:
            shutil.rmtree(temporary)  # another process was faster
    return directory


def link_runner(main: Path) -> Path:
    """Let ``<data>/lib/runner`` be the runner that ``install_runner`` gave; return its main there.

    For whoever starts runners without knowing their digest. A runner started through the link
    stays in its own directory when the link moves on.
    """
    directory = main.parents[2]
    link = directory.with_name("runner")
    point(link, directory)
    return link / main.relative_to(directory)


def point(link: Path, directory: Path) -> None:
    """Let a link lead to a directory beside it; at no moment is there none."""
    new = link.with_name(f"{link.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(directory.name)
    new.rename(link)


def _files() -> dict[str, Path]:
    files = {"jobs/__init__.py": _SOURCE / "__init__.py"}
    for path in (_SOURCE / "runner").iterdir():
        if path.suffix in {".py", ".json"}:
            files[f"jobs/runner/{path.name}"] = path
    package = Path(httptools.__file__).parent
    for path in package.rglob("*"):
        if path.suffix in {".py", ".so"}:
            files[f"httptools/{path.relative_to(package)}"] = path
    return files
