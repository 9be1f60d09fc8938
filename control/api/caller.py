"""Who is asking: every call but a listed few needs an API key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from control.api.wire import Sdk
from control.keys import bearer, require
from control.model import ApiKey, Permission
from control.sandboxes import Sandboxes
from control.service import Service
from control.snapshots import Snapshots
from control.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller, and the use cases for it."""

    service: Service
    key: ApiKey
    sdk: Sdk

    @property
    def organization_id(self) -> str:
        """For whom is asked: nothing of anybody else exists."""
        return self.key.organization_id

    @property
    def sandboxes(self) -> Sandboxes:
        """The use cases around this organisation's sandboxes."""
        return self.service.sandboxes(self.organization_id)

    @property
    def volumes(self) -> Volumes:
        """The use cases around this organisation's volumes."""
        return self.service.volumes(self.organization_id)

    @property
    def snapshots(self) -> Snapshots:
        """The use cases around what this organisation makes sandboxes from."""
        return self.service.snapshots(self.organization_id)


def service_of(request: Request) -> Service:
    """Return the use cases of the application that a request came to."""
    service: Service = request.app.state.service
    return service


class Needs:
    """A dependency that requires a valid key, and maybe a permission."""

    def __init__(self, permission: Permission | None = None) -> None:
        self.permission = permission

    async def __call__(self, request: Request) -> Caller:
        """Tell who is asking.

        Raises:
            UnauthenticatedError: nobody that we know.
            ForbiddenError: somebody who may not do this.
        """
        service = service_of(request)
        key = service.keys.authenticate(bearer(request.headers.get("authorization")))
        request.scope["yurt.key"] = key
        if self.permission is not None:
            require(key, self.permission)
        return Caller(service, key, Sdk.from_field(request.headers.get("x-daytona-sdk-version")))


AnyCaller = Annotated[Caller, Depends(Needs())]
Writer = Annotated[Caller, Depends(Needs(Permission.WRITE_SANDBOXES))]
Deleter = Annotated[Caller, Depends(Needs(Permission.DELETE_SANDBOXES))]
VolumeReader = Annotated[Caller, Depends(Needs(Permission.READ_VOLUMES))]
VolumeWriter = Annotated[Caller, Depends(Needs(Permission.WRITE_VOLUMES))]
VolumeDeleter = Annotated[Caller, Depends(Needs(Permission.DELETE_VOLUMES))]
Auditor = Annotated[Caller, Depends(Needs(Permission.READ_AUDIT_LOGS))]
SnapshotWriter = Annotated[Caller, Depends(Needs(Permission.WRITE_SNAPSHOTS))]
SnapshotDeleter = Annotated[Caller, Depends(Needs(Permission.DELETE_SNAPSHOTS))]
KeyManager = Annotated[Caller, Depends(Needs(Permission.MANAGE_API_KEYS))]
