"""Organisations: the tenants of an installation, made by whoever runs it."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from control.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from control.keys import FIRST
from control.model import ORGANIZATION, ApiKey, Organization, Permission
from control.vault import new_api_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from control.keys import KeyRing
    from control.store import Store

_NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,128}")


@dataclass(frozen=True)
class Limits:
    """What all sandboxes of an organisation may use together; None is no limit."""

    max_sandboxes: int | None = None
    max_cpu: int | None = None
    max_memory_gib: int | None = None
    max_disk_gib: int | None = None


def is_operator(key: ApiKey) -> bool:
    """Tell whether a key is of those who run the installation: its own, and may make keys."""
    return key.organization_id == ORGANIZATION and Permission.MANAGE_API_KEYS in key.permissions


class Organizations:
    """The use cases around organisations. Only an operator knows of others than their own."""

    def __init__(self, store: Store, keys: KeyRing, now: Callable[[], datetime]) -> None:
        self._store, self._keys, self._now = store, keys, now

    async def create(self, name: str, *, by: ApiKey) -> tuple[Organization, str]:
        """Make an organisation; return it with its first key's value, which is not kept.

        Raises:
            ForbiddenError: the caller does not run this installation.
            InvalidError: the name is not possible.
            ConflictError: the name is taken.
        """
        _require_operator(by)
        if _NAME.fullmatch(name) is None:
            raise InvalidError("name must have 1 to 128 characters, no slash among them")
        made = Organization(id=str(uuid.uuid4()), name=name, created_at=self._now())
        value = new_api_key()
        try:
            await self._store.organizations.insert(
                made, self._keys.described(made.id, FIRST, value)
            )
        except ConflictError as error:
            raise ConflictError(f"Organization with name {name} already exists") from error
        await self._keys.refresh()
        return made, value

    async def visible(self, by: ApiKey) -> list[Organization]:
        """Return the organisations that a key knows of: its own, or all."""
        known = await self._store.organizations.all()
        return [one for one in known if is_operator(by) or one.id == by.organization_id]

    async def get(self, organization_id: str, *, by: ApiKey) -> Organization:
        """Return an organisation.

        Raises:
            NotFoundError: there is none that the caller may know of.
        """
        is_known = organization_id == by.organization_id or is_operator(by)
        found = await self._store.organizations.get(organization_id) if is_known else None
        if found is None:
            raise NotFoundError(f"Organization with ID {organization_id} not found")
        return found

    async def limit(self, organization_id: str, limits: Limits, *, by: ApiKey) -> None:
        """Say how much an organisation may use; what is in use already stays.

        Raises:
            ForbiddenError: the caller does not run this installation.
            NotFoundError: there is none that the caller may know of.
            InvalidError: a limit is negative.
        """
        found = await self.get(organization_id, by=by)
        _require_operator(by)
        if any(limit is not None and limit < 0 for limit in vars(limits).values()):
            raise InvalidError("a limit is 0 or more, or null for none")
        await self._store.organizations.change(
            found.id, lambda known: replace(known, **vars(limits))
        )

    async def remove(self, organization_id: str, *, by: ApiKey) -> None:
        """Remove an organisation that has no sandboxes; its keys end.

        Raises:
            ForbiddenError: the caller does not run this installation.
            NotFoundError: there is none that the caller may know of.
            InvalidError: it is the installation's own.
            ConflictError: it has sandboxes.
        """
        found = await self.get(organization_id, by=by)
        _require_operator(by)
        if found.id == ORGANIZATION:
            raise InvalidError("The first organization belongs to the installation")
        await self._store.organizations.remove(found.id)
        await self._keys.refresh()


def _require_operator(key: ApiKey) -> None:
    if not is_operator(key):
        raise ForbiddenError(
            "Only keys of the installation's own organization that may manage API keys can do this"
        )
