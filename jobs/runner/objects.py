"""The object store that archives are kept in: a directory, or whatever speaks S3.

Used by control and by one-shot work, never by a process that holds a sandbox. Where the store is
comes as a mapping: ``url`` (``file:///path`` or ``s3://bucket/prefix``) and ``options`` (strings:
``endpoint``, ``region``, ``access_key_id``, ``secret_access_key``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from datetime import timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

PART_BYTES = 8 << 20
_FILE = "file://"
_RETRY_SECONDS, _RETRIES, _FIRST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 30, 4, 0.2, 5


class ObjectError(Exception):
    """The object store cannot be used; the text says which, why, and what to do."""


class Objects:
    """One object store."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        """Open it; a directory is made if it is not there.

        Raises:
            ObjectError: it cannot be opened.
        """
        self.url: str = where["url"]
        self._directory = self.url.removeprefix(_FILE) if self.url.startswith(_FILE) else ""
        with self._told():
            self._store: Any
            if self._directory:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                self._store = LocalStore(self._directory)
            else:
                self._store = from_url(
                    self.url,
                    config=where["options"],
                    client_options={"allow_http": True},
                    retry_config={
                        "max_retries": _RETRIES,
                        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                        "backoff": {
                            "init_backoff": timedelta(seconds=_FIRST_PAUSE_SECONDS),
                            "max_backoff": timedelta(seconds=_MOST_PAUSE_SECONDS),
                            "base": 2,
                        },
                    },
                )

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store an object, which appears whole when all pieces are there.

        Raises:
            ObjectError: it cannot be stored; what ``pieces`` raises passes through.
        """
        with self._told():
            writer = obstore.open_writer(self._store, name, buffer_size=PART_BYTES)
        # Not closed unless all is there: closing makes the object appear.
        for piece in pieces:
            with self._told():
                writer.write(piece)
        with self._told():
            writer.close()

    def read(self, name: str) -> Iterator[bytes]:
        """Yield an object in pieces.

        Raises:
            ObjectError: it is not there, or cannot be read.
        """
        with self._told():
            yield from map(bytes, obstore.get(self._store, name).stream(min_chunk_size=PART_BYTES))

    def names(self, prefix: str) -> list[str]:
        """List the objects below a prefix.

        Raises:
            ObjectError: the list is not complete.
        """
        with self._told():
            return [each["path"] for page in obstore.list(self._store, prefix) for each in page]

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is fine.

        Raises:
            ObjectError: it may still be there.
        """
        with self._told(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def remove_all(self, prefix: str) -> None:
        """Remove every object below a prefix, and in a directory what a killed writer left.

        Raises:
            ObjectError: some may still be there.
        """
        for name in self.names(prefix):
            self.remove(name)
        if self._directory:
            with self._told(), contextlib.suppress(FileNotFoundError):
                shutil.rmtree(f"{self._directory}/{prefix}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ObjectError(f"the archive store {self.url} cannot be used: {reason}") from error


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any
