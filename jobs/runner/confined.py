"""Run a program on a sandbox's disk without any right on the host.

It is root in a user namespace of its own, as the sandbox's processes are, and sees the disk by an
id-mapped mount; everything else it sees is read-only. So a hostile archive can neither write
elsewhere nor make a device: the kernel refuses.
"""

from __future__ import annotations

import os

from jobs.runner import channel, linux, rootfs, spawn


def start(
    arguments: Sequence[str], disk: str, place: str, base: int, fds: tuple[int, int, int]
) -> int:
    """Start a program with its working directory in ``place`` and return its pid.

    Args:
        arguments: the program's name, and what it is given.
        disk: the directory that it may write in.
        place: an empty directory, which everyone may reach, to mount ``disk`` on.
        base: the first of the 65,536 host ids that it may use.
        fds: its standard input, output and error.

    Raises:
        OSError: it could not be confined; nothing was started.
    """
    program = spawn.find(arguments[0])
    ours, theirs = channel.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _in_child(theirs, program, arguments, place, base, fds)
    theirs.close()
    try:
        _expect(ours.recv(512))
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{kind}", "w") as mapping:
                mapping.write(f"0 {base} {rootfs.UIDS}")
        user_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        linux.attach_mount(linux.clone_mount(disk, userns_fd=user_fd), place)
        os.close(user_fd)
        ours.send(b"m")
        _expect(ours.recv(512))
    except OSError:
        os.kill(pid, linux.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        ours.close()
    return pid


def _expect(answer: bytes) -> None:
    if answer != b"ok":
        raise OSError(f"a program cannot be confined: {answer.decode(errors='replace')}")


def _in_child(
    link: _socket.socket,
    program: str,
    arguments: Sequence[str],
    place: str,
    base: int,
    fds: tuple[int, int, int],
) -> NoReturn:
    try:
        linux.become(base)
        linux.unshare(linux.CLONE_NEWUSER)
        link.send(b"ok")
        link.recv(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
        linux.unshare(linux.CLONE_NEWNS)
        linux.set_mounts("/", set_attributes=linux.MOUNT_ATTR_RDONLY, recursive=True)
        linux.set_mounts(place, clear_attributes=linux.MOUNT_ATTR_RDONLY)
        os.chdir(place)
        high = [os.dup(fd) for fd in fds]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        os.closerange(3, link.fileno())
        os.closerange(link.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        link.send(b"ok")
        os.execve(program, list(arguments), spawn.ENVIRONMENT)
    except Exception as error:  # noqa: BLE001 - the whole text goes to the parent, which raises it
        link.send(str(error).encode()[:500])
    finally:
        os._exit(127)


TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence
    from typing import NoReturn
