"""Build images from Dockerfiles, step by step; a step that was done before is not done again."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from control import dockerfiles
from control.errors import ConflictError, InvalidError, WorkError
from control.model import Resources, Snapshot, SnapshotState
from control.reconcile.build_log import BuildLog
from control.reconcile.steps import Step

if TYPE_CHECKING:
    from datetime import datetime

    from control.dockerfiles import Defaults, Instruction
    from control.reconcile.images import Images
    from control.reconcile.steps import Steps
    from control.settings import Settings
    from control.store import Store

# Least of a step's sandbox: whoever builds needs more than what is built.
_LEAST = Resources(cpu=2, memory_gib=2, disk_gib=10)
_CACHED = "_step_"
_MAKE_DIRECTORY = ("/bin/sh", "-c", 'mkdir -p "$0"')
_SAID = 1200


class Builder:
    """Builds the images of snapshots."""

    def __init__(self, store: Store, settings: Settings, images: Images, steps: Steps) -> None:
        self._store, self._settings = store, settings
        self._images, self._steps = images, steps

    async def build(self, snapshot: Snapshot, now: datetime) -> dict[str, Any]:
        """Build the image of a snapshot and return its description.

        Raises:
            InvalidError: it cannot be built; the text names the step and what it said.
            WorkError: a node could not do its part.
            UnavailableError: not now.
        """
        assert snapshot.build is not None
        await self._steps.clear(snapshot)
        async with BuildLog(self._store.build_logs, snapshot.id) as log:
            try:
                return await self._build(snapshot, log, now)
            except (InvalidError, WorkError) as error:
                log.say(error.reason if isinstance(error, WorkError) else str(error))
                raise

    async def _build(self, snapshot: Snapshot, log: BuildLog, now: datetime) -> dict[str, Any]:
        assert snapshot.build is not None
        recipe = dockerfiles.read(snapshot.build.dockerfile)
        log.say(f"FROM {recipe.base}")
        image = await self._images.fetched(recipe.base)
        state = dockerfiles.defaults_of(image)
        for instruction in recipe.instructions:
            log.say(instruction.text)
            state = dockerfiles.configured(state, instruction)
            step = _step(image["id"], instruction, state)
            if step is not None:
                image = await self._done(snapshot, instruction, step, log, now)
        if not recipe.is_plain:
            image = await self._images.derived(image["id"], dockerfiles.fields_of(state))
        log.say("the image is built")
        return image

    async def _done(
        self,
        snapshot: Snapshot,
        instruction: Instruction,
        step: Step,
        log: BuildLog,
        now: datetime,
    ) -> dict[str, Any]:
        """Do a step, or find what it made before."""
        owner, name = snapshot.organization_id, f"{_CACHED}{_digest(step)}"
        known = await self._store.snapshots.get(owner, name)
        if known is not None:
            log.say("  done before")
            kept = await self._store.snapshots.change(
                known.id, lambda there: replace(there, updated_at=now)
            )
            return {"id": kept.image_id, "user": kept.user, "size_bytes": kept.size_bytes}
        log.tail = ""
        try:
            image = await self._steps.run(snapshot, step, self._resources(snapshot), log.hear)
        except InvalidError as error:
            where = f"Dockerfile line {instruction.line}: {instruction.text[:200]}"
            said = f"\n{log.tail.strip()[-_SAID:]}" if log.tail.strip() else ""
            raise InvalidError(f"{where}: {error}{said}") from error
        made = replace(
            snapshot,
            id=str(uuid.uuid4()),
            name=name,
            image_id=image["id"],
            user=image["user"],
            size_bytes=image["size_bytes"],
            build=None,
            hidden=True,
            state=SnapshotState.ACTIVE,
            created_at=now,
            updated_at=now,
        )
        with suppress(ConflictError):  # another build of the same was faster
            await self._store.snapshots.insert(made)
        return image

    def _resources(self, snapshot: Snapshot) -> Resources:
        asked, most = snapshot.resources, self._settings
        return Resources(
            min(max(asked.cpu, _LEAST.cpu), most.max_cpu),
            min(max(asked.memory_gib, _LEAST.memory_gib), most.max_memory_gib),
            min(max(asked.disk_gib, _LEAST.disk_gib), most.max_disk_gib),
        )


def _step(image_id: str, instruction: Instruction, state: Defaults) -> Step | None:
    """Return what is to be run for an instruction, if anything."""
    if instruction.kind == "WORKDIR":
        return Step(image_id, (*_MAKE_DIRECTORY, state.workdir), "root", "/")
    if instruction.kind == "RUN":
        env = {**state.args, **state.env}
        command = dockerfiles.words(instruction, state)
        return Step(image_id, command, state.user, state.workdir or "/", env)
    return None


def _digest(step: Step) -> str:
    parts = [step.image_id, step.command, step.user, step.workdir, sorted(step.env.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
