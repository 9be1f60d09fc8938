"""Who the sandbox's processes are: the user, his environment and his working directory.

``/etc/passwd`` and ``/etc/group`` are read by hand: the image's C library and its name services
are not ours, and many images have neither file.
"""

from __future__ import annotations

import os
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator, Mapping

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LARGEST_ID = 2**32 - 2
OPEN_FILES = 65536
PR_SET_DUMPABLE = 4


class UnknownUserError(Exception):
    """The image has no such user or group."""


class User(NamedTuple):
    """One user of the image; ``groups`` holds the supplementary ones."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


class Identity(NamedTuple):
    """What everything that we start inside the sandbox gets; ``POST /env`` changes it in place."""

    user: User
    environment: dict[str, str]
    workdir: str


class Accounts:
    """The users and groups of an image."""

    def __init__(self, passwd: str, group: str) -> None:
        """Take the texts of ``/etc/passwd`` and ``/etc/group``; malformed lines are skipped."""
        self._users = [
            (name, int(uid), int(gid), home, shell)
            for name, _, uid, gid, _, home, shell in _rows(passwd, 7)
            if uid.isdecimal() and gid.isdecimal()
        ]
        self._groups = [
            (name, int(gid), members.split(","))
            for name, _, gid, members in _rows(group, 4)
            if gid.isdecimal()
        ]

    @classmethod
    def load(cls) -> Accounts:
        """Read those of this root file system; a missing file is an empty one."""
        return cls(_text("/etc/passwd"), _text("/etc/group"))

    def user(self, wanted: str) -> User:
        """Find ``name``, ``uid``, or either with ``:group``; empty means root.

        As in container runtimes: a numeric user need not exist, then his group is 0 and his home
        is ``/``; a group that is named replaces the supplementary ones. Root needs no entry.

        Raises:
            UnknownUserError: there is no such user or group.
        """
        name, _, group = (wanted or "root").partition(":")
        row = self._row(name)
        if row is None:
            uid = 0 if name == "root" else _number(name)
            if uid is None:
                raise UnknownUserError(f"the image has no user {name!r} in /etc/passwd")
            row = (name if uid else "root", uid, 0, "/", "/bin/sh")
        login, uid, gid, home, shell = row
        if group:
            return User(login, uid, self.gid(group), (), home or "/", shell or "/bin/sh")
        groups = tuple(number for _, number, members in self._groups if login in members)
        return User(login, uid, gid, groups, home or "/", shell or "/bin/sh")

    def uid(self, wanted: str) -> int:
        """Find a user's id by name or number."""
        row = self._row(wanted)
        uid = row[1] if row is not None else _number(wanted)
        if uid is None:
            raise UnknownUserError(f"no user {wanted!r} in /etc/passwd")
        return uid

    def gid(self, wanted: str) -> int:
        """Find a group's id by name or number."""
        for name, gid, _ in self._groups:
            if name == wanted:
                return gid
        number = _number(wanted)
        if number is None:
            raise UnknownUserError(f"no group {wanted!r} in /etc/group")
        return number

    def _row(self, wanted: str) -> tuple[str, int, int, str, str] | None:
        for row in self._users:
            if row[0] == wanted:
                return row
        number = _number(wanted)
        return next((row for row in self._users if row[1] == number), None)


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        row = line.split(":")
        if len(row) == columns:
            yield row


def _number(text: str) -> int | None:
    if text.isascii() and text.isdecimal() and int(text) <= LARGEST_ID:
        return int(text)
    return None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def environment(user: User, given: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of everything that runs inside.

    Args:
        user: fills in what ``given`` lacks.
        given: the image's variables and those of the create; empty values are values.
    """
    return {
        "PATH": DEFAULT_PATH,
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": user.shell,
        **given,
    }


def working_directory(wanted: str, home: str) -> str:
    """Return the first of ``wanted``, ``home`` and ``/`` that is a directory."""
    for path in (wanted, home):
        if path.startswith("/") and os.path.isdir(path):
            return path
    return "/"


def become(user: User) -> None:
    """Give this process, for good, the rights of ``user`` and no others.

    It becomes unreadable for other processes of that user, too: its memory holds the secret.
    """
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if _libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")
    os.umask(0o022)


def set_limits() -> None:
    """Raise the soft limit on open files, as container runtimes do, and write no core files."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def flush_disk() -> None:
    """Write out the sandbox's own file system; ``sync`` would wait for those of all others."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _libc().syncfs(root)
    finally:
        os.close(root)


def _libc() -> ctypes.CDLL:
    # Only once the agent has a user, and again when it ends: 2 ms that nobody waits for.
    import ctypes

    return ctypes.CDLL(None)
