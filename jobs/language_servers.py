"""The language servers of the default snapshot, for Python and for TypeScript and JavaScript.

Both lie in one directory of their own below ``/usr/local``, so that no package of the sandbox's
user meets theirs. The Python one is copied from this installation's packages, which our lock pins;
what Node needs is fetched by npm, as pinned by ``image/slim/node/package-lock.json``.
Knows nothing of the rest of the snapshot.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from control.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.site import Site

DISTRIBUTIONS = (
    "attrs",
    "cattrs",
    "docstring-to-markdown",
    "importlib-metadata",
    "jedi",
    "jedi-language-server",
    "lazy-importer",
    "lsprotocol",
    "parso",
    "pygls",
    "typing-extensions",
    "zipp",
)
"""The Python server and all that it needs on the snapshot's Python 3.11; a test compares."""

HOME = "lib/language-servers"
_PYTHON_PROGRAM = f"""#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/local/{HOME}/python")
from jedi_language_server.cli import cli

sys.exit(cli())
"""
_NODE_PROGRAM = "typescript-language-server"
_LOCK_FILES = ("package.json", "package-lock.json")
_DEADLINE_SECONDS = 600
# What an installer notes for itself, other on each machine.
_NOTES = frozenset(("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"))


def recipe(slim: Path) -> list[str]:
    """Name what `stage` would lay out.

    Raises:
        UnavailableError: a Python package is not installed here.
    """
    locked = [(slim / "node" / name).read_text() for name in _LOCK_FILES]
    versions = [f"{name}={_distribution(name).version}" for name in DISTRIBUTIONS]
    return [_PYTHON_PROGRAM, *versions, *locked]


def stage(local: Path, slim: Path, site: Site) -> None:
    """Lay out both servers below ``local``, the ``/usr/local`` to be, which has Node already.

    Raises:
        UnavailableError: a Python package is not installed here, or npm's registry cannot be
            reached or has something else than the lock says.
    """
    home = local / HOME
    home.mkdir(parents=True)
    for name in DISTRIBUTIONS:
        for source, path in _files(name):
            target = home / "python" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    program = local / "bin/jedi-language-server"
    program.write_text(_PYTHON_PROGRAM)
    program.chmod(0o755)
    for name in _LOCK_FILES:
        shutil.copyfile(slim / "node" / name, home / name)
    _install(home, local, site)
    script = f"{HOME}/node_modules/{_NODE_PROGRAM}/lib/cli.mjs"
    (local / script).chmod(0o755)
    (local / "bin" / _NODE_PROGRAM).symlink_to(f"../{script}")


def _files(name: str) -> Iterator[tuple[Path, Path]]:
    """Yield each file of a package: where it is here, and where it belongs in a library."""
    for file in _distribution(name).files or ():
        if ".." not in file.parts and file.suffix != ".pyc" and file.name not in _NOTES:
            yield Path(str(file.locate())), Path(file)


def _install(home: Path, local: Path, site: Site) -> None:
    """Run the staged npm; scripts of packages are not run."""
    npm = local / "lib/node_modules/npm/bin/npm-cli.js"
    with tempfile.TemporaryDirectory(prefix="npm-", dir=local.parent.parent) as work:
        environment = {**os.environ, **_network(site, Path(work))}
        options = ["--ignore-scripts", "--no-audit", "--no-fund", f"--cache={work}"]
        options += [f"--registry={site.npm_mirror}"] if site.npm_mirror else []
        command: list[str | Path] = [local / "bin/node", npm, "ci", "--loglevel=error", *options]
        try:
            done = subprocess.run(
                command,
                cwd=home,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_DEADLINE_SECONDS,
                check=False,
            )
            said = done.stderr.strip().splitlines()
        except subprocess.TimeoutExpired:
            done, said = None, [f"not done after {_DEADLINE_SECONDS} s"]
    if done is None or done.returncode != 0:
        reasons = [line.removeprefix("npm error ") for line in said if "complete log" not in line]
        raise UnavailableError(
            "the default snapshot could not be made: npm could not install its TypeScript "
            f"language server: {'; '.join(reasons[:3]) or 'npm said nothing'}. Check that npm's "
            "registry can be reached, or set YURT_NPM_MIRROR or YURT_HTTPS_PROXY."
        )


def _network(site: Site, work: Path) -> dict[str, str]:
    """Return the variables by which npm reaches its registry from this machine."""
    proxies = {
        "http_proxy": site.http_proxy,
        "https_proxy": site.https_proxy,
        "no_proxy": site.no_proxy,
    }
    variables = {name: value for name, value in proxies.items() if value}
    if certificates := site.certificates():
        trusted = work / "trusted.pem"
        trusted.write_text("".join(certificates))
        variables["NODE_EXTRA_CA_CERTS"] = str(trusted)
    return variables


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as exc:
        raise UnavailableError(
            f"the default snapshot needs the Python package {name}: install yurt-server[embedded]"
        ) from exc
