"""Who the sandbox's processes are: the user, his environment and his working directory.

``/etc/passwd`` and ``/etc/group`` are read by hand: the image's C library and its name services
are not ours, and many images have neither file.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class UnknownUserError(Exception):
    """The image has no such user."""


class User(NamedTuple):
    """One user of the image; ``groups`` holds the supplementary ones."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


class Identity(NamedTuple):
    """What everything that we start inside the sandbox gets."""

    user: User
    environment: Mapping[str, str]
    workdir: str
