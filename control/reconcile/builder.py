"""Build images from Dockerfiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from control import dockerfiles
from control.errors import InvalidError

if TYPE_CHECKING:
    from control.model import Snapshot
    from control.reconcile.images import Images
    from control.store import Store


class Builder:
    """One build of one snapshot."""

    def __init__(self, store: Store, images: Images, snapshot: Snapshot) -> None:
        self._logs, self._images, self._snapshot = store.build_logs, images, snapshot
        self._number = 0

    async def build(self) -> dict[str, Any]:
        """Build the image and return its description.

        Raises:
            InvalidError: the Dockerfile cannot be built.
            WorkError: a step failed.
            UnavailableError: not now.
        """
        build = self._snapshot.build
        assert build is not None
        await self._logs.clear(self._snapshot.id)
        recipe = dockerfiles.read(build.dockerfile)
        await self._say(f"FROM {recipe.base}")
        image = await self._images.fetched(recipe.base)
        state = dockerfiles.defaults_of(image)
        for instruction in recipe.instructions:
            if instruction.is_step:
                raise InvalidError(
                    f"Dockerfile line {instruction.line}: {instruction.kind} is not supported: "
                    "make a snapshot of a sandbox in which it was done"
                )
            state = dockerfiles.configured(state, instruction)
        if not recipe.is_plain:
            image = await self._images.derived(image["id"], dockerfiles.fields_of(state))
        await self._say("done")
        return image

    async def _say(self, text: str) -> None:
        await self._logs.append(self._snapshot.id, self._number, text + "\n")
        self._number += 1
