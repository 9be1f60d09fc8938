"""References of images in foreign registries: what users may name, and how it is asked for. Pure.

The server fetches in the host's network, so what is not a public name is refused unless the
operator lists it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from control.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Collection

_LONGEST = 400
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?"
)
_USUAL = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image to fetch; ``plain`` asks its registry by HTTP."""

    name: str
    plain: bool = False


def image_name(text: str | None) -> str:
    """Check the image name of a new snapshot; the texts are the wire's.

    Raises:
        InvalidError: it is none, or does not say which version.
    """
    if not text:
        raise InvalidError("Must specify an image name")
    found = _REFERENCE.fullmatch(text)
    if found is None or len(text) > _LONGEST:
        raise InvalidError(f"Invalid image name {text[:100]!r}: write it like ubuntu:22.04")
    if found["tag"] is None and found["digest"] is None:
        raise InvalidError("Image name must include a tag (e.g., ubuntu:22.04)")
    if found["tag"] == "latest" and found["digest"] is None:
        raise InvalidError('Images with tag ":latest" are not allowed')
    return text


def reference(text: str, registries: Collection[str], mirror: str = "") -> Reference:
    """Tell how to fetch an image.

    Args:
        text: as users write it; without a host it is one of Docker Hub.
        registries: hosts that images may come from, each perhaps after ``http://``; if there is
            none, every host with a public name.
        mirror: the URL of a registry that is asked for images of Docker Hub in its place.

    Raises:
        InvalidError: it cannot be read, or its registry is not allowed.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None or len(text) > _LONGEST:
        raise InvalidError(f"Invalid image name {text[:100]!r}: write it like ubuntu:22.04")
    host = found["host"] or _USUAL
    name = text
    if found["host"] is not None and not _is_host(found["host"]):
        host = _USUAL  # the first part of a path like library/ubuntu
    if f"http://{host}" in registries:
        return Reference(name, plain=True)
    if host in registries or (not registries and _is_public(host)):
        return _mirrored(name, mirror) if mirror and host == _USUAL else Reference(name)
    raise InvalidError(
        f"Images of {host} are not allowed: let the operator add it to YURT_REGISTRIES"
    )


def _mirrored(name: str, mirror: str) -> Reference:
    path = name.removeprefix(f"{_USUAL}/")
    if "/" not in path:
        path = f"library/{path}"
    scheme, _, place = mirror.rpartition("://")
    return Reference(f"{place.rstrip('/')}/{path}", plain=scheme == "http")


def _is_host(first: str) -> bool:
    """Tell a host from the first part of a path, as every container tool does."""
    return "." in first or ":" in first or first == "localhost"


def _is_public(host: str) -> bool:
    last = host.rpartition(".")[2]
    is_internal = last in {"local", "localhost", "internal", "home", "lan", "arpa"}
    return "." in host and last.isalpha() and not is_internal
