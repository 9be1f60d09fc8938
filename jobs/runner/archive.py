"""Pack a sandbox's files into an archive in the object store, and make a disk from one.

Both are one-shot work under the disk's lock. tar runs confined in a user namespace; what leaves the
node is compressed, encrypted and authenticated. The ciphers and the store's client are loaded
only here. The key never is in a job: packing asks control for it, restoring has it from the
sandbox's assignment.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

from jobs.runner import boot, confined, disk, linux, message, network, record, report, tools

# Everything that tells files apart, and an overlay's marks. Not the origin of a copied file: it
# names an inode of one node's layer.
_KEEP = (
    "--numeric-owner", "--xattrs", "--xattrs-include=*", "--xattrs-exclude=user.overlay.origin",
    "--xattrs-exclude=security.selinux", "--acls", "--use-compress-program=zstd",
)  # fmt: skip
_PACK = ("tar", "--create", "--file=-", "--format=posix", "--sparse", *_KEEP, ".")
_UNPACK = (
    "tar", "--extract", "--file=-", "--same-owner", "--same-permissions",
    "--delay-directory-restore", *_KEEP,
)  # fmt: skip
_CHUNK_BYTES = 1 << 20
_SAID = 500


class ArchiveError(Exception):
    """An archive cannot be made or used; the text says why and is shown to the user."""


def pack(*, data: str, sandbox_id: str, generation: int, control_url: str) -> dict[str, Any]:
    """Store a stopped sandbox's files, and read them back; the disk stays as it is.

    Returns:
        ``name`` of the object, its SHA-256 ``digest`` in hexadecimal, and its ``size`` in bytes.

    Raises:
        ArchiveError: control has no use for it any more, or what is stored is not what was sent.
        DiskError: the disk is in use, or of a later start.
    """
    node = record.read_node(data)
    lock = disk.claim(data, sandbox_id)
    try:
        disk.require_generation(data, sandbox_id, generation)
        head = message.Head(node.name, sandbox_id, generation, os.urandom(16).hex(), 1)
        access = report.ask(control_url, node.key, head, {"phase": "archive"})
        tools.use(node.tools)
        with _Mounted(data, disk.paths(data, sandbox_id)[0]) as mounted:
            return _store(mounted, access, sandbox_id, generation)
    finally:
        os.close(lock)


def _store(
    mounted: _Mounted, access: dict[str, Any], sandbox_id: str, generation: int
) -> dict[str, Any]:
    from jobs.runner import objects, sealing

    key = bytes.fromhex(access["key"])
    try:
        store = objects.Objects(access)
        store.remove_all(f"{sandbox_id}/")  # what earlier attempts left
    except objects.ObjectError as error:
        raise ArchiveError(str(error)) from error
    # A name of its own: nobody who was given up can write over what control knows.
    name = f"{sandbox_id}/{generation}-{os.urandom(8).hex()}"
    sent, found = _Count(), _Count()
    try:
        store.write(name, sent.of(sealing.seal(mounted.output(_PACK), key, sandbox_id)))
        for _ in sealing.unseal(found.of(store.read(name)), key, sandbox_id):
            pass
        if sent.told() != found.told():
            raise ArchiveError("the archive store returns other bytes than it was given")
    except (objects.ObjectError, sealing.SealError, ArchiveError) as error:
        _forget(store, sandbox_id)
        raise ArchiveError(str(error)) from error
    return {"name": name, **sent.told()}


def _forget(store: objects.Objects, sandbox_id: str) -> None:
    from jobs.runner import objects

    try:
        store.remove_all(f"{sandbox_id}/")
    except objects.ObjectError as error:
        sys.stderr.write(f"runner: {error}\n")  # the next attempt removes it


def restore(*, data: str, sandbox_id: str, disk_bytes: int) -> dict[str, Any]:
    """Make a sandbox's disk from its archive, whole or not at all; one that is there stays.

    Standard input says where the archive is and how to open it, as control does.

    Raises:
        ArchiveError: it cannot be had, is damaged, or holds what no sandbox could have made.
    """
    access = json.load(sys.stdin)
    tools.use(record.read_node(data).tools)
    lock = disk.claim(data, sandbox_id)
    image, _ = disk.paths(data, sandbox_id)
    try:
        if not os.path.exists(image):
            temporary = disk.prepare(data, sandbox_id, disk_bytes)
            try:
                with _Mounted(data, temporary) as mounted:
                    _fetch(mounted, access, sandbox_id)
                os.rename(temporary, image)
            except BaseException:
                os.unlink(temporary)
                raise
    finally:
        os.close(lock)
    return {}


def _fetch(mounted: _Mounted, access: dict[str, Any], sandbox_id: str) -> None:
    from jobs.runner import objects, sealing

    found, key = _Count(), bytes.fromhex(access["key"])
    try:
        stored = found.of(objects.Objects(access).read(access["name"]))
        mounted.input(_UNPACK, sealing.unseal(stored, key, sandbox_id))
    except (objects.ObjectError, sealing.SealError) as error:
        raise ArchiveError(str(error)) from error
    if found.told() != {"digest": access["digest"], "size": access["size"]}:
        raise ArchiveError("the archive is damaged: it is not the one that was stored")


class _Count:
    """Counts and digests what passes."""

    def __init__(self) -> None:
        self._digest, self._size = hashlib.sha256(), 0

    def of(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._digest.update(piece)
            self._size += len(piece)
            yield piece

    def told(self) -> dict[str, Any]:
        return {"digest": self._digest.hexdigest(), "size": self._size}


class _Mounted:
    """A disk that is mounted for this process only, and tar on the sandbox's files there."""

    def __init__(self, data: str, image: str) -> None:
        linux.unshare(linux.CLONE_NEWNS)
        self._scratch = boot.private_mounts(data)
        self._volume, self._place = f"{self._scratch}/volume", f"{self._scratch}/place"
        os.mkdir(self._volume, 0o700)
        os.mkdir(self._place, 0o755)
        self._slot = network.take_slot()  # for its host ids, which nobody else has meanwhile
        disk.mount(image, self._volume)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write everything out and unmount; what fails is raised, as the disk is not good then."""
        fd = os.open(self._volume, os.O_RDONLY | os.O_CLOEXEC)
        try:
            linux.syncfs(fd)
        finally:
            os.close(fd)
        if os.path.ismount(self._place):
            linux.umount(self._place, linux.MNT_DETACH)
        linux.umount(self._volume, linux.MNT_DETACH)
        os.close(self._slot.lock_fd)

    def output(self, command: Sequence[str]) -> Iterator[bytes]:
        """Yield what the command writes; its failure is raised before the end is reached."""
        ours, theirs = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        tar = self._start(command, null, theirs)
        try:
            with os.fdopen(ours, "rb", 0) as stream:
                while piece := stream.read(_CHUNK_BYTES):
                    yield piece
        except BaseException:  # whoever reads gave up
            tar.kill()
            raise
        tar.finish()

    def input(self, command: Sequence[str], pieces: Iterable[bytes]) -> None:
        """Give the command what it reads, and wait for its end."""
        theirs, ours = os.pipe()
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        tar = self._start(command, theirs, null)
        try:
            with os.fdopen(ours, "wb", 0) as stream:
                for piece in pieces:
                    _write_all(stream, piece)
        except BrokenPipeError:
            pass  # its exit code says why it stopped
        except BaseException:
            tar.kill()
            raise
        tar.finish()

    def _start(self, command: Sequence[str], read: int, write: int) -> _Tar:
        said = os.memfd_create("said")
        volume = f"{self._volume}/upper"
        try:
            fds = (read, write, said)
            pid = confined.start(command, volume, self._place, self._slot.uid_base, fds)
        finally:
            os.close(read)
            os.close(write)
        return _Tar(pid, said)


class _Tar:
    """A tar that runs."""

    def __init__(self, pid: int, said: int) -> None:
        self._pid, self._said = pid, said

    def finish(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        said = os.pread(self._said, 1 << 20, 0).decode(errors="replace").strip()[-_SAID:]
        os.close(self._said)
        if code:
            raise ArchiveError(f"tar failed on the archive with code {code}: {said}")

    def kill(self) -> None:
        os.kill(self._pid, linux.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._said)


def _write_all(stream: IO[bytes], piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[stream.write(view) :]


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO, Any, Self

    from jobs.runner import objects
