"""What a new sandbox is asked to be like, and whether that is possible. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from control.errors import InvalidError
from control.model import Build, Intervals, Mount, NetworkPolicy, Size
from control.naming import is_sandbox_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control.model import Resources
    from control.settings import Settings

MAX_ARCHIVE_MINUTES = 43_200
MAX_MINUTES = 10 * 366 * 24 * 60
MAX_TEXT_BYTES = 256 << 10
_MAX_NETWORKS = 64
# What Linux takes as one string of an environment (MAX_ARG_STRLEN).
_MAX_VARIABLE_BYTES = (128 << 10) - 1
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,9}")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a new sandbox is to be like; None leaves it to the snapshot or to us.

    Its volumes have ids or names.
    """

    name: str | None = None
    snapshot: str | None = None
    build: Build | None = None
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
    volumes: tuple[Mount, ...] = ()
    target: str | None = None
    cpu: int | None = None
    memory_gib: int | None = None
    disk_gib: int | None = None
    intervals: Intervals = field(default_factory=Intervals)


def check(wish: Wish) -> None:
    """Check everything that can be told from the wish alone.

    Raises:
        InvalidError: something in it is not possible.
    """
    if wish.name is not None and not is_sandbox_name(wish.name):
        raise InvalidError(
            "name must have 1 to 128 letters, digits, dots, dashes or underscores, begin with a "
            "letter or digit, and not look like a sandbox id"
        )
    if wish.user is not None and _USER.fullmatch(wish.user) is None:
        raise InvalidError("user must be a user name or number")
    if wish.target is not None and _TARGET.fullmatch(wish.target) is None:
        raise InvalidError("target must be the name of a region")
    check_labels(wish.labels)
    for name, value in wish.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidError(f"env: {name!r} cannot be set: a NUL, an equals sign or no name")
        if _bytes({name: value}) > _MAX_VARIABLE_BYTES:
            raise InvalidError(f"env: {name[:64]!r} is longer than {_MAX_VARIABLE_BYTES} bytes")
    if _bytes(wish.env) > MAX_TEXT_BYTES:
        raise InvalidError(f"env is larger than {MAX_TEXT_BYTES >> 10} KiB in all")


def wished_resources(wish: Wish, usual: Resources, settings: Settings) -> Resources:
    """Return the resources of a new sandbox, where ``usual`` are the snapshot's.

    Raises:
        InvalidError: they are too large, or a snapshot was named that has its own.
    """
    asked = Size(wish.cpu, wish.memory_gib, wish.disk_gib)
    if wish.snapshot and asked != Size():
        raise InvalidError("Cannot specify Sandbox resources when using a snapshot")
    return checked_size(asked, settings).of(usual)


def checked_size(asked: Size, settings: Settings) -> Size:
    """Return a size if a sandbox may have it.

    Raises:
        InvalidError: something is too small, or more than one sandbox may ask for.
    """
    for what, amount, most in (
        ("CPU", asked.cpu, settings.max_cpu),
        ("Memory", asked.memory_gib, settings.max_memory_gib),
        ("Disk", asked.disk_gib, settings.max_disk_gib),
    ):
        if amount is not None and amount < 1:
            raise InvalidError(f"{what} must be at least 1")
        if amount is not None and amount > most:
            raise InvalidError(f"{what} limit exceeded. Maximum allowed: {most}.")
    return asked


def check_labels(labels: Mapping[str, str]) -> None:
    """Check that labels can be stored.

    Raises:
        InvalidError: they are too large.
    """
    if _bytes(labels) > MAX_TEXT_BYTES:
        raise InvalidError(f"labels are larger than {MAX_TEXT_BYTES >> 10} KiB in all")


def _bytes(pairs: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in pairs.items())


def checked_intervals(
    stop: int | None, archive: int | None, delete: int | None, ttl: int | None = None
) -> Intervals:
    """Read timers in minutes as the wire has them; None is the default.

    Raises:
        InvalidError: one is negative that may not be, or absurdly long.
    """
    usual = Intervals()
    stop = usual.stop if stop is None else stop
    archive = usual.archive if archive is None else archive
    delete = usual.delete if delete is None else delete
    ttl = usual.ttl if ttl is None else ttl
    for name, value in (
        ("autoStopInterval", stop),
        ("autoArchiveInterval", archive),
        ("ttlMinutes", ttl),
    ):
        if value < 0:
            raise InvalidError(f"{name} must be non-negative")
    if max(stop, delete, ttl) > MAX_MINUTES:
        raise InvalidError(f"intervals are at most {MAX_MINUTES} minutes")
    longest = MAX_ARCHIVE_MINUTES
    return Intervals(stop, min(archive or longest, longest), max(delete, -1), ttl)


def checked_network(*, block_all: bool, allow_list: str | None) -> NetworkPolicy:
    """Read a network policy: an allow list opens only what is on it.

    Raises:
        InvalidError: an entry is not an IPv4 network.
    """
    return NetworkPolicy(block_all=block_all and not _words(allow_list), allow=_words(allow_list))


def changed_network(
    known: NetworkPolicy, *, block_all: bool | None, allow_list: str | None
) -> NetworkPolicy:
    """Change a policy: a list opens only what is on it, an empty one or a yes or no clears it.

    Raises:
        InvalidError: an entry is not an IPv4 network.
    """
    if block_all is None and allow_list is None:
        return known
    if block_all is None:
        block_all = known.block_all
    return checked_network(block_all=block_all, allow_list=allow_list)


def _words(allow_list: str | None) -> tuple[str, ...]:
    words = [word for word in (allow_list or "").replace(",", " ").split() if word]
    if len(words) > _MAX_NETWORKS:
        raise InvalidError(f"networkAllowList has more than {_MAX_NETWORKS} entries")
    try:
        for word in words:
            ipaddress.IPv4Network(word)
    except ValueError as error:
        message = f"networkAllowList: {error}; write IPv4 networks like 10.0.0.0/8"
        raise InvalidError(message) from error
    return tuple(words)
