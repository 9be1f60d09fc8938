"""Ids, names, hosts and paths: one pure, reversible function for each way to write them.

Everything that comes from a request is parsed here, once, into a canonical value or nothing.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import NewType

SandboxId = NewType("SandboxId", str)

# In the order of the characters' codes, so that ids sort by time.
_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 26
_TIME_BITS, _RANDOM_BYTES = 48, 10

_ID = re.compile(r"[a-z2-7]{26}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL = re.compile(r"([1-9][0-9]{0,4})-([a-z2-7]{26})(?:-([a-z2-7]{23}))?")
_TOOLBOX = re.compile(r"/toolbox/([a-z2-7]{26})(?=/|$)|/api/toolbox/([a-z2-7]{26})/toolbox(?=/|$)")
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535


def new_sandbox_id(now_ms: int | None = None) -> SandboxId:
    """Make an id: 48 bits of milliseconds and 80 random ones, which nobody can guess."""
    if now_ms is None:
        now_ms = time.time_ns() // 1_000_000
    moment = now_ms & ((1 << _TIME_BITS) - 1)
    number = moment << (8 * _RANDOM_BYTES) | int.from_bytes(os.urandom(_RANDOM_BYTES))
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return SandboxId("".join(reversed(digits)))


def is_sandbox_id(text: str) -> bool:
    """Tell whether ``text`` has the form of a sandbox id."""
    return _ID.fullmatch(text) is not None


def is_sandbox_name(text: str) -> bool:
    """Tell whether ``text`` may name a sandbox; what looks like an id could hide one."""
    return _NAME.fullmatch(text) is not None and not is_sandbox_id(text)


def parse_port(text: str) -> int | None:
    """Read a TCP port from 1 to 65535, else None."""
    if _PORT.fullmatch(text) is None:
        return None
    port = int(text)
    return port if 1 <= port <= _LAST_PORT else None


@dataclass(frozen=True, slots=True)
class PreviewHost:
    """What a preview's host name says."""

    port: int
    sandbox_id: SandboxId
    signature: str | None = None


def preview_host(host: PreviewHost, domain: str) -> str:
    """Name the public host of a port inside, e.g. ``3000-<id>.localhost``.

    One DNS label of at most 56 characters; RFC 1035 §2.3.4 allows 63.
    """
    signed = f"-{host.signature}" if host.signature else ""
    return f"{host.port}-{host.sandbox_id}{signed}.{domain}"


def parse_preview_host(name: str, domains: tuple[str, ...]) -> PreviewHost | None:
    """Read a host name without its port, in any case; the inverse of ``preview_host``."""
    label, _, domain = name.lower().partition(".")
    found = _LABEL.fullmatch(label)
    if found is None or domain not in domains or int(found[1]) > _LAST_PORT:
        return None
    return PreviewHost(int(found[1]), SandboxId(found[2]), found[3])


def parse_toolbox_path(path: str) -> SandboxId | None:
    """Return whose toolbox a path names, in either dialect."""
    found = _TOOLBOX.match(path)
    return SandboxId(found[1] or found[2]) if found else None


def split_host(field: str) -> tuple[str, str]:
    """Split a ``Host`` field into name (lower case, brackets kept) and port, which may be empty."""
    name, colon, port = field.strip().lower().rpartition(":")
    if not colon or name.endswith(":") or "]" in port:
        return field.strip().lower(), ""
    return name, port
