"""The file routes that look at and arrange files; their contents travel elsewhere."""

from __future__ import annotations

import errno
import os
import stat
import time

from yurt_agent.errors import BadRequestError, ConflictError, InvalidPathError
from yurt_agent.http import Response
from yurt_agent.listing import array, at
from yurt_agent.paths import decode, required, resolve
from yurt_agent.user import Accounts, UnknownUserError
from yurt_agent.walk import remove_tree, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from yurt_agent.http import Request

DEEPEST = 100

# Years 1000 to 9999: what four digits can say. Files may claim any.
_FIRST_SECOND, _LAST_SECOND = -30_610_224_000, 253_402_300_799


async def list_files(request: Request) -> Response:
    """Answer ``GET /files``: the entries of a directory, of a tree with ``depth`` above 1."""
    text = request.first("path") or "."
    path = resolve(text, request.identity.workdir)
    depth = _whole(request.first("depth") or "1", "depth", DEEPEST)
    return await array(text, _entries(path, depth))


async def file_info(request: Request) -> Response:
    """Answer ``GET /files/info``."""
    text, path = required(request)
    return Response.json(await at(text, _info, path))


async def create_folder(request: Request) -> Response:
    """Answer ``POST /files/folder``: make a directory and its parents; one that is there is fine.

    ``mode`` is that of a new last directory.
    """
    text, path = required(request)
    await at(text, _make_directory, path, _mode(request.first("mode") or "755"))
    return Response(status=201)


async def delete_file(request: Request) -> Response:
    """Answer ``DELETE /files``: remove a file or a link, with ``recursive`` a directory, too."""
    text, path = required(request)
    await at(text, _delete, path, request.wants("recursive"))
    return Response(status=204)


async def move_file(request: Request) -> Response:
    """Answer ``POST /files/move``; nothing is ever overwritten."""
    source_text, source = required(request, "source")
    target_text, target = required(request, "destination")
    await at(source_text, os.lstat, source)
    await at(target_text, _refuse_existing, target)
    await at(target_text, _move, source, target)
    return Response()


async def set_permissions(request: Request) -> Response:
    """Answer ``POST /files/permissions``: any of mode (octal), owner and group (name or id)."""
    text, path = required(request)
    mode = _mode(request.first("mode")) if request.first("mode") else None
    await at(text, _change, path, mode, request.first("owner"), request.first("group"))
    return Response()


def _entries(path: bytes, depth: int) -> Iterator[object]:
    for entry in walk(path, depth):
        try:
            status = entry.stat()
        except OSError:
            # A link to nowhere, or a directory that may be listed and not searched.
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                status = os.stat_result((0,) * 10)
        yield describe(entry.name, entry.path, status)


def _info(path: bytes) -> dict[str, object]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = os.lstat(path)
    return describe(os.path.basename(path) or b"/", path, status)


def describe(name: bytes, path: bytes, status: os.stat_result) -> dict[str, object]:
    """Render the wire's FileInfo; owner and group are numbers in strings."""
    seconds = min(max(int(status.st_mtime // 1), _FIRST_SECOND), _LAST_SECOND)
    moment = time.gmtime(seconds)
    nanoseconds = status.st_mtime_ns % 1_000_000_000
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return {
        "name": decode(name),
        "path": decode(path),
        "isDir": stat.S_ISDIR(status.st_mode),
        "size": status.st_size,
        "mode": stat.filemode(status.st_mode),
        "permissions": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": str(status.st_uid),
        "group": str(status.st_gid),
        # Deprecated on the wire, in the form of Go's Time.String.
        "modTime": time.strftime("%Y-%m-%d %H:%M:%S", moment) + fraction + " +0000 UTC",
        "modifiedAt": time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{nanoseconds // 1000:06d}Z",
    }


def _make_directory(path: bytes, mode: int) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path)
    except FileExistsError:
        if os.path.isdir(path):
            return
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    os.chmod(path, mode)


def _delete(path: bytes, recursive: bool) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    if path == b"/" or os.path.basename(path) in {b".", b".."}:
        raise InvalidPathError(f"invalid path: {decode(path)}: will not be deleted")
    if not recursive:
        raise BadRequestError(f"{decode(path)} is a directory: delete it with recursive=true")
    remove_tree(path)


def _refuse_existing(path: bytes) -> None:
    if os.path.lexists(path):
        raise ConflictError(f"conflict: {decode(path)}: exists already")


def _move(source: bytes, target: bytes) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across(source, target)


def _move_across(source: bytes, target: bytes) -> None:
    """Copy to another file system, then remove; a copy that fails is removed instead."""
    # Seldom needed and slow to import.
    import shutil

    is_tree = stat.S_ISDIR(os.lstat(source).st_mode)
    try:
        if is_tree:
            shutil.copytree(os.fsdecode(source), os.fsdecode(target), symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
    except OSError:
        if os.path.lexists(target):
            _delete(target, recursive=True)
        raise
    _delete(source, recursive=True)


def _change(path: bytes, mode: int | None, owner: str, group: str) -> None:
    uid = gid = -1
    if owner or group:
        accounts = Accounts.load()
        try:
            uid = accounts.uid(owner) if owner else -1
            gid = accounts.gid(group) if group else -1
        except UnknownUserError as error:
            raise BadRequestError(str(error)) from error
    os.stat(path)
    # A change of owner clears the set-user-id bit, so the mode comes last.
    if uid != -1 or gid != -1:
        os.chown(path, uid, gid)
    if mode is not None:
        os.chmod(path, mode)


def _mode(text: str) -> int:
    try:
        mode = int(text, 8) if text.isalnum() else -1
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise BadRequestError(f"mode must be octal, such as 0755: {text!r}")
    return mode


def _whole(text: str, name: str, largest: int) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= largest):
        raise BadRequestError(f"{name} must be a whole number from 1 to {largest}")
    return int(text)
