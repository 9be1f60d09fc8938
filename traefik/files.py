"""Routes as files, one per sandbox, in the directory that an embedded Traefik watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import yaml

from control.errors import UnavailableError
from traefik.registry import Route
from traefik.rules import is_sandbox_id, sandbox_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The first line of a file says the route itself: Traefik refuses keys that it does not know.
_HEADER = "# route "


class FileRegistry:
    """A ``RouteRegistry`` over ``<directory>/<sandbox id>.yml``.

    Other files in the directory are left alone. Files are not flushed to the disk: a machine
    that goes down takes the sandboxes with it. ``mend`` removes what such a fall left torn.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def register(self, route: Route) -> None:
        """See ``RouteRegistry.register``."""
        await asyncio.to_thread(self._write, route)

    async def deregister(self, sandbox_id: str) -> None:
        """See ``RouteRegistry.deregister``."""
        try:
            self._path(sandbox_id).unlink(missing_ok=True)
        except OSError as exc:
            message = f"cannot remove the route of {sandbox_id}: {exc}"
            raise UnavailableError(message) from exc

    async def routes(self) -> list[Route]:
        """See ``RouteRegistry.routes``."""
        return await asyncio.to_thread(self._read_all)

    def mend(self) -> None:
        """Remove files that are not whole: one of them keeps Traefik from reading the others."""
        for path in self._files():
            if not _is_whole(path):
                path.unlink()

    def _path(self, sandbox_id: str) -> Path:
        if not is_sandbox_id(sandbox_id):
            message = f"{sandbox_id!r} is not a sandbox id"
            raise ValueError(message)
        return self._directory / f"{sandbox_id}.yml"

    def _files(self) -> Iterator[Path]:
        return (
            path
            for path in self._directory.iterdir()
            if path.suffix == ".yml" and is_sandbox_id(path.stem)
        )

    def _write(self, route: Route) -> None:
        path = self._path(route.sandbox_id)
        # Beside the directory, not in it: each event there makes Traefik read everything again.
        temporary = self._directory.parent / f"{route.sandbox_id}.new"
        try:
            temporary.write_text(_render(route))
            temporary.rename(path)
        except OSError as exc:
            message = f"cannot write the route of {route.sandbox_id}: {exc}"
            raise UnavailableError(message) from exc

    def _read_all(self) -> list[Route]:
        found = []
        try:
            for path in self._files():
                with contextlib.suppress(FileNotFoundError):  # deregistered meanwhile
                    found.append(_read(path))
        except (OSError, ValueError) as exc:
            message = f"cannot list the routes: {exc}"
            raise UnavailableError(message) from exc
        return found


def _render(route: Route) -> str:
    body = yaml.safe_dump(sandbox_configuration(route), sort_keys=False, width=1000)
    return f"{_HEADER}{json.dumps(asdict(route))}\n{body}"


def _read(path: Path) -> Route:
    """Read the route from its file's first line.

    Raises:
        ValueError: the line is not whole.
    """
    with path.open() as file:
        head = file.readline()
    try:
        return Route(**json.loads(head.removeprefix(_HEADER)))
    except TypeError as exc:
        message = f"{path.name} does not describe a route"
        raise ValueError(message) from exc


def _is_whole(path: Path) -> bool:
    try:
        return path.read_text() == _render(_read(path))
    except ValueError:
        return False
