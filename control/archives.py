"""Where archives are, and who may open which: the object store as control sees it."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from control.errors import InvalidError, UnavailableError
from jobs.runner.objects import ObjectError, Objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from control.model import Sandbox

KEY_BYTES = 32


def new_archive_key() -> str:
    """Draw the key that one archive is sealed by, hexadecimal."""
    return token_hex(KEY_BYTES)


class Archives:
    """The archives of all sandboxes."""

    def __init__(self, where: Mapping[str, Any] | None) -> None:
        """Prepare; ``where`` is what ``Objects`` takes, None if there is no store."""
        self._where = where

    def require(self) -> None:
        """Require that there is a store.

        Raises:
            InvalidError: there is none.
        """
        if self._where is None:
            raise InvalidError(
                "Archiving is not set up on this server: YURT_ARCHIVE_URL must name an object "
                "store that every node reaches, like s3://bucket/prefix"
            )

    def access(self, sandbox: Sandbox) -> dict[str, Any]:
        """Tell a node how to reach and to open the sandbox's archive: a secret.

        Raises:
            InvalidError: there is no store.
        """
        self.require()
        archive = sandbox.archive
        where = dict(self._where or {}) | {"key": sandbox.secrets.archive_key}
        if archive is None or archive.is_stale:
            return where
        return where | {"name": archive.name, "digest": archive.digest, "size": archive.size}

    async def remove(self, name: str) -> None:
        """Remove one archive; one that is not there is fine.

        Raises:
            UnavailableError: the store does not do it now.
        """
        await self._do(lambda objects: objects.remove(name))

    async def remove_all(self, sandbox_id: str) -> None:
        """Remove everything that is kept of a sandbox.

        Raises:
            UnavailableError: the store does not do it now.
        """
        await self._do(lambda objects: objects.remove_all(f"{sandbox_id}/"))

    async def _do(self, work: Callable[[Objects], None]) -> None:
        where = self._where
        if where is None:
            raise UnavailableError("the archive cannot be removed: YURT_ARCHIVE_URL is not set")
        try:
            await asyncio.to_thread(lambda: work(Objects(where)))
        except ObjectError as error:
            raise UnavailableError(str(error)) from error
