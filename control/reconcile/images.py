"""Images by the verbs of the nodes: fetched, made of sandboxes, derived from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from control.model import BYTES_PER_GIB
from control.references import reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control.model import Sandbox
    from control.settings import Settings
    from jobs.scheduler import Scheduler


class Images:
    """Each call returns the description of an image that every node can have."""

    def __init__(self, scheduler: Scheduler, settings: Settings) -> None:
        self._scheduler, self._settings = scheduler, settings

    async def fetched(self, name: str) -> dict[str, Any]:
        """Fetch an image of another registry.

        Raises:
            InvalidError: it may not be had from there.
            WorkError: it cannot be had.
            UnavailableError: not now.
        """
        settings = self._settings
        source = reference(name, settings.allowed_registries, settings.docker_mirror)
        arguments = {
            "reference": source.name,
            "plain": source.plain,
            "most_bytes": self._settings.max_image_gib * BYTES_PER_GIB,
        }
        return await self._work("import-image", arguments)

    async def committed(self, sandbox: Sandbox) -> dict[str, Any]:
        """Make an image of a sandbox's files; what runs in it stands still meanwhile.

        Raises:
            WorkError: that cannot be done.
            UnavailableError: not now.
        """
        arguments = {
            "sandbox_id": sandbox.id,
            "image_id": sandbox.image_id,
            "generation": sandbox.run.generation,
            "most_bytes": self._settings.max_image_gib * BYTES_PER_GIB,
        }
        return await self._work("commit-disk", arguments, sandbox.node)

    async def derived(self, image_id: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Make an image with the files of another, and other defaults for its processes.

        Raises:
            WorkError: that cannot be done.
            UnavailableError: not now.
        """
        arguments = {"image_id": image_id, "defaults": dict(defaults)}
        return await self._work("derive-image", arguments)

    async def _work(
        self, verb: str, arguments: Mapping[str, Any], node: str = ""
    ) -> dict[str, Any]:
        done = await self._scheduler.work(verb, arguments, node=node)
        image: dict[str, Any] = done["image"]
        return image
