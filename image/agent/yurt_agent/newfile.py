"""Files that appear complete under their name, or not at all.

The bytes go to a temporary file that takes the name by one ``rename``; whatever happens before
leaves the old file as it was. Blocks; runs in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat

from yurt_agent.errors import InvalidPathError
from yurt_agent.paths import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COPY_BYTES = 1 << 20
NEW_MODE = 0o644
PREFIX = b".yurt-upload-"

_TEMPORARY = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPOOLS = (b"/tmp", b"/var/tmp")
# The directory may be closed to us while the file in it is ours to write.
_CLOSED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


class NewFile:
    """One file on its way: ``write``, ``complete``, then ``commit`` or at any time ``discard``."""

    def __init__(self, target: bytes) -> None:
        """Begin a file that will be called ``target``; missing parents are made at the commit.

        Raises:
            OSError: the directory cannot be written, or the disk is full.
            InvalidPathError: there is something of that name that is no file.
        """
        self.size = 0
        self._target = _destination(target)
        self._in_place = False
        directory = _existing(os.path.dirname(self._target))
        try:
            self._descriptor, self._temporary = _create_in(directory)
        except OSError as error:
            if error.errno not in _CLOSED or not os.access(self._target, os.W_OK):
                raise
            self._descriptor, self._temporary = _create_in(_spool())
            self._in_place = True

    @classmethod
    def unnamed(cls) -> NewFile:
        """Begin a file whose name comes later; ``named`` goes on with it."""
        return cls(_random_name(_spool()))

    def named(self, target: bytes) -> NewFile:
        """Copy what a complete, unnamed file holds to one that will be called ``target``."""
        other = NewFile(target)
        try:
            self._copy_to(other.write)
            other.complete()
        except OSError:
            other.discard()
            raise
        self.discard()
        return other

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self.size += len(data)
        _write_all(self._descriptor, data)

    def complete(self) -> None:
        """End the content; give it the mode and owner of the file that it will replace."""
        if not self._in_place:
            _take_over(self._descriptor, self._target)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def make_parents(self) -> None:
        """Make the directories above it: what of a commit needs space on the disk."""
        os.makedirs(os.path.dirname(self._target), exist_ok=True)

    def commit(self) -> None:
        """Let the complete file take its name.

        Raises:
            OSError: it could not; nothing has changed, and ``discard`` is still due.
        """
        self.make_parents()
        if not self._in_place:
            try:
                os.rename(self._temporary, self._target)
            except OSError as error:
                # A file that is a mount point of its own (as /etc/hosts is) can only be written.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return
        self._overwrite()
        os.unlink(self._temporary)

    def discard(self) -> None:
        """Leave no trace."""
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _overwrite(self) -> None:
        room = os.statvfs(self._target)
        if room.f_bavail * room.f_frsize + os.stat(self._target).st_size < self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._target)
        output = os.open(self._target, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._copy_to(lambda data: _write_all(output, data))
        finally:
            os.close(output)

    def _copy_to(self, write: Callable[[bytes], None]) -> None:
        with io.FileIO(os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC), "rb") as content:
            while data := content.read(COPY_BYTES):
                write(data)


def _destination(target: bytes) -> bytes:
    """Follow links as ``open`` would; refuse what is no file and could not become one."""
    real = os.path.realpath(target) if os.path.islink(target) else target
    if os.path.basename(real) in {b"", b".", b".."}:
        raise InvalidPathError(f"invalid path: {decode(target)}: no file name")
    try:
        status = os.stat(real)
    except FileNotFoundError:
        return real
    if stat.S_ISDIR(status.st_mode):
        raise InvalidPathError(f"invalid path: {decode(target)}: is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidPathError(f"invalid path: {decode(target)}: not a regular file")
    return real


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        data = data[written:]
        written = os.write(descriptor, data)


def _spool() -> bytes:
    return next((path for path in _SPOOLS if os.access(path, os.W_OK)), _SPOOLS[0])


def _existing(directory: bytes) -> bytes:
    """Return the nearest ancestor that exists, in which the temporary file can live."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return directory


def _random_name(directory: bytes) -> bytes:
    return os.path.join(directory, PREFIX + os.urandom(8).hex().encode())


def _create_in(directory: bytes) -> tuple[int, bytes]:
    name = _random_name(directory)
    return os.open(name, _TEMPORARY, 0o600), name


def _take_over(descriptor: int, target: bytes) -> None:
    """Give the new file the mode and, where we may, the owner of the old one."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        os.fchmod(descriptor, NEW_MODE)
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        # It may be ours to replace, as the directory is, but not to give away.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    # A new content must not inherit the right to become another user.
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)
