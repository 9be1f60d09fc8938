"""API keys: who is asking, for which organisation, and what they may do.

All keys are in memory, so a request costs no read; every change of this process goes through here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from control.errors import ForbiddenError, InvalidError, NotFoundError, UnauthenticatedError
from control.model import ORGANIZATION, ApiKey, Permission
from control.vault import new_api_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from control.naming import SandboxId
    from control.store import KeyStore

FIRST = "first"
_KEY = re.compile(r"yurt_([0-9a-f]{8})_[0-9a-f]{64}")
_NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,128}")
_NOBODY = "0" * 64


def hash_of(key: str) -> str:
    """Return what is stored of a key: it has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """All API keys.

    A change is in memory before it is stored: an assignment with the new version must never be
    built from the old keys.
    """

    def __init__(
        self, store: KeyStore, now: Callable[[], datetime], wake: Callable[[SandboxId], None]
    ) -> None:
        self._store, self._now, self._wake = store, now, wake
        self._by_prefix: dict[str, ApiKey] = {}
        self._changing = asyncio.Lock()
        self._used: dict[str, datetime] = {}

    async def load(self, first_key: str) -> None:
        """Read all keys, and make sure that the installation's first key is among them."""
        await self.refresh()
        known = self._find(ORGANIZATION, FIRST)
        if known is not None and hmac.compare_digest(known.hash, hash_of(first_key)):
            return
        if known is not None:
            await self._drop(known)
        await self._add(self.described(ORGANIZATION, FIRST, first_key))

    async def refresh(self) -> None:
        """Read all keys: another control may have changed them."""
        async with self._changing:
            self._by_prefix = {key.prefix: key for key in await self._store.all()}

    def of(self, organization_id: str) -> list[ApiKey]:
        """Return an organisation's keys with when they were last used, the oldest first."""
        keys = sorted(self._by_prefix.values(), key=lambda key: (key.created_at, key.name))
        return [self._shown(key) for key in keys if key.organization_id == organization_id]

    def _shown(self, key: ApiKey) -> ApiKey:
        return replace(key, last_used_at=self._used.get(key.prefix, key.last_used_at))

    def authenticate(self, text: str) -> ApiKey:
        """Return whose key ``text`` is.

        Raises:
            UnauthenticatedError: nobody's, or it has expired.
        """
        form = _KEY.fullmatch(text)
        key = self._by_prefix.get(form[1]) if form else None
        is_right = hmac.compare_digest(key.hash if key else _NOBODY, hash_of(text))
        if key is None or not is_right:
            raise UnauthenticatedError("Invalid credentials")
        if key.expires_at is not None and key.expires_at <= self._now():
            raise UnauthenticatedError("This API key has expired")
        self._used[key.prefix] = self._now()
        return key

    def holds(self, key: ApiKey) -> bool:
        """Tell whether a key that was authenticated once would be now."""
        known = self._by_prefix.get(key.prefix)
        has_ended = key.expires_at is not None and key.expires_at <= self._now()
        return known is not None and known.created_at == key.created_at and not has_ended

    async def create(
        self,
        name: str,
        permissions: Iterable[Permission],
        expires_at: datetime | None,
        *,
        by: ApiKey,
    ) -> tuple[ApiKey, str]:
        """Make a key of the caller's organisation and return it with its value, which is not kept.

        Raises:
            InvalidError: the name or the end is not possible.
            ForbiddenError: it would be allowed what the caller is not.
            ConflictError: the name is taken.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidError("name must have 1 to 128 characters, no slash among them")
        if expires_at is not None and expires_at <= self._now():
            raise InvalidError("expiresAt must be in the future")
        wanted = frozenset(permissions)
        _require(wanted <= by.permissions, "A key can hand on only permissions that it has itself")
        value = new_api_key()
        described = self.described(by.organization_id, name, value)
        key = replace(described, permissions=wanted, expires_at=expires_at)
        await self._add(key)
        return key, value

    async def remove(self, name: str, *, by: ApiKey) -> None:
        """Call a key of the caller's organisation back.

        Raises:
            NotFoundError: there is none with this name.
            InvalidError: it is the first one.
            ForbiddenError: it is allowed what the caller is not.
        """
        key = self.get(by.organization_id, name)
        if (key.organization_id, name) == (ORGANIZATION, FIRST):
            raise InvalidError("The first key belongs to the installation and cannot be deleted")
        _require(key.permissions <= by.permissions, "This key may do more than yours")
        await self._drop(key)

    def get(self, organization_id: str, name: str) -> ApiKey:
        """Return the key with this name of an organisation.

        Raises:
            NotFoundError: there is none.
        """
        key = self._find(organization_id, name)
        if key is None:
            raise NotFoundError(f"API key {name} not found")
        return self._shown(key)

    async def note_use(self) -> None:
        """Store when keys were last used."""
        used, self._used = self._used, {}
        for prefix, key in self._by_prefix.items():
            if prefix in used:
                self._by_prefix[prefix] = replace(key, last_used_at=used[prefix])
        if used:
            await self._store.used(list(used.items()))

    def _find(self, organization_id: str, name: str) -> ApiKey | None:
        wanted = organization_id, name
        keys = self._by_prefix.values()
        return next((key for key in keys if (key.organization_id, key.name) == wanted), None)

    def described(self, organization_id: str, name: str, value: str) -> ApiKey:
        """Return what would be stored of a new key that may do everything, for ever.

        Raises:
            InvalidError: the value is not one of an API key.
        """
        form = _KEY.fullmatch(value)
        if form is None:
            raise InvalidError("an API key looks like yurt_<8 hex digits>_<64 hex digits>")
        return ApiKey(
            name=name,
            organization_id=organization_id,
            prefix=form[1],
            hash=hash_of(value),
            permissions=frozenset(Permission),
            created_at=self._now(),
        )

    async def _add(self, key: ApiKey) -> None:
        async with self._changing:
            self._by_prefix[key.prefix] = key
            try:
                concerned = await self._store.insert(key)
            except BaseException:
                del self._by_prefix[key.prefix]
                raise
        self._tell(concerned)

    async def _drop(self, key: ApiKey) -> None:
        async with self._changing:
            self._by_prefix.pop(key.prefix, None)
            try:
                concerned = await self._store.remove(key.organization_id, key.name)
            except BaseException:
                self._by_prefix[key.prefix] = key
                raise
        self._tell(concerned)

    def _tell(self, concerned: Iterable[SandboxId]) -> None:
        for sandbox_id in concerned:
            self._wake(sandbox_id)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ForbiddenError(otherwise)


def require(key: ApiKey, permission: Permission) -> None:
    """Require that a key allows something.

    Raises:
        ForbiddenError: it does not.
    """
    _require(permission in key.permissions, f"This API key lacks the permission {permission.value}")


def bearer(field: str | None) -> str:
    """Read the key out of an ``Authorization`` field.

    Raises:
        UnauthenticatedError: there is none.
    """
    scheme, _, key = (field or "").partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthenticatedError("Invalid credentials: send an API key as a bearer token")
    return key.strip()
