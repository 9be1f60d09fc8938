"""Bodies and path parts of requests: read strictly, refused with what to change."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from control import dockerfiles
from control.errors import InvalidError, NotServedError, UnsupportedError
from control.model import Build, NetworkPolicy, Permission, Size
from control.mounts import checked_mount
from control.naming import parse_port
from control.organizations import Limits
from control.wishes import Wish, changed_network, checked_intervals, checked_network

_INTEGER = re.compile(r"-?[0-9]{1,9}")

Body = TypeVar("Body", bound=BaseModel)


class _Strict(BaseModel):
    """Types as JSON has them: no number from a string. Fields that we do not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class MountBody(_Strict):
    """One of ``volumes`` of ``POST /sandbox``."""

    volume_id: str = Field(alias="volumeId")
    mount_path: str = Field(alias="mountPath")
    subpath: str | None = None


class BuildBody(_Strict):
    """``buildInfo``: what an image is built from."""

    dockerfile: str = Field(alias="dockerfileContent")
    contexts: list[str] | None = Field(default=None, alias="contextHashes")

    def build(self) -> Build:
        """Return what is asked for.

        Raises:
            InvalidError: the Dockerfile cannot be read.
            UnsupportedError: an instruction is not supported.
        """
        dockerfiles.read(self.dockerfile)
        return Build(self.dockerfile, tuple(self.contexts or ()))


class CreateBody(_Strict):
    """``POST /sandbox``."""

    name: str | None = None
    snapshot: str | None = None
    user: str | None = None
    env: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    public: bool | None = None
    network_block_all: bool | None = Field(default=None, alias="networkBlockAll")
    network_allow_list: str | None = Field(default=None, alias="networkAllowList")
    target: str | None = None
    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    auto_stop_interval: int | None = Field(default=None, alias="autoStopInterval")
    auto_archive_interval: int | None = Field(default=None, alias="autoArchiveInterval")
    auto_delete_interval: int | None = Field(default=None, alias="autoDeleteInterval")

    build_info: BuildBody | None = Field(default=None, alias="buildInfo")
    volumes: list[MountBody] | None = None
    secrets: list[Any] | None = None
    linked_sandbox: str | None = Field(default=None, alias="linkedSandbox")
    domain_allow_list: str | None = Field(default=None, alias="domainAllowList")
    outbound_proxy_url: str | None = Field(default=None, alias="outboundProxyUrl")
    auto_pause_interval: int | None = Field(default=None, alias="autoPauseInterval")
    ttl_minutes: int | None = Field(default=None, alias="ttlMinutes")
    gpu: int | None = None
    kvm: bool | None = None

    def wish(self) -> Wish:
        """Return what is asked for.

        Raises:
            InvalidError: it cannot be.
            UnsupportedError: this version cannot do it; it is not done by half.
        """
        if self.build_info is not None and self.snapshot:
            raise InvalidError("Cannot use both a snapshot and an image to build")
        self._refuse_unsupported()
        return Wish(
            name=self.name or None,
            snapshot=self.snapshot or None,
            build=self.build_info.build() if self.build_info else None,
            user=self.user or None,
            env=self.env or {},
            labels=self.labels or {},
            public=bool(self.public),
            network=checked_network(
                block_all=bool(self.network_block_all), allow_list=self.network_allow_list
            ),
            volumes=tuple(
                checked_mount(each.volume_id, each.mount_path, each.subpath)
                for each in self.volumes or ()
            ),
            target=self.target or None,
            cpu=self.cpu,
            memory_gib=self.memory,
            disk_gib=self.disk,
            intervals=checked_intervals(
                self.auto_stop_interval,
                self.auto_archive_interval,
                self.auto_delete_interval,
                self.ttl_minutes,
            ),
        )

    def _refuse_unsupported(self) -> None:
        require_no_domains(self.domain_allow_list)
        for asked, what in (
            (self.secrets, "secrets: pass values as env instead"),
            (self.linked_sandbox, "linked sandboxes"),
            (self.outbound_proxy_url, "outboundProxyUrl: set the proxy variables as env instead"),
            (self.auto_pause_interval, "pausing: use autoStopInterval instead"),
            (self.gpu, "GPUs"),
            (self.kvm, "kvm"),
        ):
            if asked:
                raise UnsupportedError(f"This version does not support {what}")


class ResizeBody(_Strict):
    """``POST /sandbox/{s}/resize``."""

    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None

    @property
    def size(self) -> Size:
        """What the sandbox is to have."""
        return Size(self.cpu, self.memory, self.disk)


class NetworkBody(_Strict):
    """``POST /sandbox/{s}/network-settings``."""

    network_block_all: bool | None = Field(default=None, alias="networkBlockAll")
    network_allow_list: str | None = Field(default=None, alias="networkAllowList")
    domain_allow_list: str | None = Field(default=None, alias="domainAllowList")

    def changed(self, known: NetworkPolicy) -> NetworkPolicy:
        """Return what becomes of a policy.

        Raises:
            InvalidError: an entry is not an IPv4 network.
            NotServedError: it names domains.
        """
        require_no_domains(self.domain_allow_list)
        return changed_network(
            known, block_all=self.network_block_all, allow_list=self.network_allow_list
        )


def require_no_domains(names: str | None) -> None:
    """Refuse a list of domains.

    Raises:
        NotServedError: there is one.
    """
    if names:
        raise NotServedError(
            "domainAllowList is not served: packets are filtered by address, and the addresses of "
            "a name change and are shared; use networkAllowList"
        )


class SnapshotBody(_Strict):
    """``POST /snapshots``."""

    name: str | None = None
    image_name: str | None = Field(default=None, alias="imageName")
    entrypoint: list[str] | None = None
    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    build_info: BuildBody | None = Field(default=None, alias="buildInfo")
    gpu: int | None = None

    def wish(self) -> Wish:
        """Return what sandboxes made from it are to be like.

        Raises:
            UnsupportedError: this version cannot do that.
        """
        if self.gpu:
            raise UnsupportedError("This version does not support GPUs")
        if self.build_info is not None and self.image_name:
            raise InvalidError("Cannot use both imageName and buildInfo")
        build = self.build_info.build() if self.build_info else None
        return Wish(build=build, cpu=self.cpu, memory_gib=self.memory, disk_gib=self.disk)


class SandboxSnapshotBody(_Strict):
    """``POST /sandbox/{s}/snapshot``."""

    name: str
    include_memory: bool | None = Field(default=None, alias="includeMemory")

    def wanted(self) -> str:
        """Return the name.

        Raises:
            UnsupportedError: memory is to be in it, too.
        """
        if self.include_memory:
            raise UnsupportedError("This version does not support snapshots of memory")
        return self.name


class LabelsBody(_Strict):
    """``PUT /sandbox/{s}/labels``."""

    labels: dict[str, str]


class OrganizationBody(_Strict):
    """``POST /organizations``."""

    name: str


class VolumeBody(_Strict):
    """``POST /volumes``."""

    name: str


class QuotaBody(_Strict):
    """``PATCH /organizations/{id}/quota/{regionId}``; the number of sandboxes is ours."""

    cpu: int | None = Field(default=None, alias="totalCpuQuota")
    memory: int | None = Field(default=None, alias="totalMemoryQuota")
    disk: int | None = Field(default=None, alias="totalDiskQuota")
    sandboxes: int | None = Field(default=None, alias="totalSandboxQuota")

    def limits(self) -> Limits:
        """Return what is asked for."""
        return Limits(self.sandboxes, self.cpu, self.memory, self.disk)


class KeyBody(_Strict):
    """``POST /api-keys``."""

    name: str
    permissions: list[str]
    expires_at: str | None = Field(default=None, alias="expiresAt")

    def wanted(self) -> list[Permission]:
        """Return the permissions.

        Raises:
            InvalidError: one of them does not exist.
        """
        try:
            return [Permission(permission) for permission in self.permissions]
        except ValueError as error:
            raise InvalidError(f"permissions: {error}") from error

    def end(self) -> datetime | None:
        """Return when the key expires."""
        return None if self.expires_at is None else moment("expiresAt", self.expires_at)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Read a body as JSON; an empty one counts as ``{}``.

    Raises:
        InvalidError: it is not JSON, or not of this kind; the text says where.
    """
    raw = await request.body()
    try:
        content = from_json(raw) if raw.strip() else {}
    except ValueError as error:
        raise InvalidError(f"The body is not valid JSON: {error}") from error
    try:
        return kind.model_validate({} if content is None else content)
    except ValidationError as error:
        raise InvalidError(", ".join(_complaints(error))) from error


def _complaints(error: ValidationError) -> list[str]:
    said = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in detail["loc"]) or "The body"
        said.append(f"{where[:100]}: {detail['msg']}")
    return said


def moment(name: str, text: str) -> datetime:
    """Read a time.

    Raises:
        InvalidError: it is none.
    """
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidError(f"{name} must be a time like 2026-01-31T12:00:00Z") from error


def integer(name: str, text: str) -> int:
    """Read a whole number.

    Raises:
        InvalidError: it is none.
    """
    if _INTEGER.fullmatch(text) is None:
        raise InvalidError(f"{name} must be a whole number")
    return int(text)


def port_number(text: str) -> int:
    """Read a TCP port.

    Raises:
        InvalidError: it is none.
    """
    port = parse_port(text)
    if port is None:
        raise InvalidError("Invalid port: must be from 1 to 65535")
    return port


def truth(name: str, text: str) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        InvalidError: it is neither.
    """
    if text.lower() not in {"true", "false"}:
        raise InvalidError(f"{name} must be true or false")
    return text.lower() == "true"
