"""Publish images of this machine for the nodes of a cluster: ``jobs.runner.publishing``, in the
errors of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from control.errors import UnavailableError
from jobs.images import read_image
from jobs.runner import layers, publishing, skopeo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def publish(data: Path, image_id: str, registry: str, progress: Callable[[str], None]) -> None:
    """Push an image as ``<registry>/snapshots:<image_id>``, unless it is there already.

    Raises:
        NotFoundError: this machine does not have the image, or not all of it.
        UnavailableError: the registry cannot be used, or no space is left; the text says which.
    """
    read_image(data, image_id)
    try:
        publishing.publish(data, image_id, registry, progress)
    except (skopeo.RegistryError, layers.LayerError) as exc:
        raise UnavailableError(str(exc)) from exc
