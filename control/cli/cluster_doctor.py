"""``yurt doctor --cluster``: ask each part of a cluster, and go on where one does not answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control.cli import asking, cluster_checks
from control.cli.checks import Check, Verdict
from control.cli.cluster_facts import read_nodes, read_nomad
from control.errors import YurtError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from control.cli.asking import Server
    from control.model import Snapshot
    from control.settings import Settings
    from traefik.consul import ConsulSettings

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_ROUTE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_OK = 200
_HEADER = "X-Yurt-Doctor"


def cluster_checks_of(settings: Settings) -> Iterator[Check]:
    """Look at Nomad, its nodes, Consul, the database, the registry and Traefik."""
    found, keys, snapshot = _database(settings)
    yield found
    yield from _nomad(settings, keys)
    yield from _consul(settings)
    yield from _registry(settings, snapshot)


def _database(settings: Settings) -> tuple[Check, Collection[str], Snapshot | None]:
    name = "database"
    try:
        keys, snapshot, level = asyncio.run(_read_store(settings))
    except YurtError as error:
        advice = "see that it runs, and what YURT_DATABASE_URL and YURT_DATA say"
        return Check(name, Verdict.FAIL, str(error), advice), (), None
    kind = "PostgreSQL" if settings.database_url else "SQLite"
    if not settings.database_url:
        advice = "one control only; set YURT_DATABASE_URL for more"
        return Check(name, Verdict.WARN, f"{kind}, migration {level}", advice), keys, snapshot
    return Check(name, Verdict.OK, f"{kind}, migration {level}"), keys, snapshot


async def _read_store(settings: Settings) -> tuple[set[str], Snapshot | None, str]:
    from control.cli.world import open_store
    from control.model import ORGANIZATION
    from control.snapshots import DEFAULT
    from control.store.migrate import HEAD

    async with open_store(settings) as store:
        # Opening it brought it up to date, or raised.
        keys = {node.name for node in await store.nodes.all()}
        return keys, await store.snapshots.get(ORGANIZATION, DEFAULT), HEAD


def _nomad(settings: Settings, keys: Collection[str]) -> Iterator[Check]:
    with asking.nomad(settings) as nomad:
        try:
            yield from cluster_checks.nomad_checks(read_nomad(nomad))
            yield from cluster_checks.node_list(read_nodes(nomad, settings), keys)
        except YurtError as error:
            advice = "see its servers' logs, and what YURT_NOMAD_URL, _TOKEN and _CA say"
            yield Check("Nomad", Verdict.FAIL, str(error), advice)


def _consul(settings: Settings) -> Iterator[Check]:
    with asking.consul(settings) as consul:
        try:
            yield cluster_checks.consul_leader(str(consul.get("/v1/status/leader") or ""))
        except YurtError as error:
            advice = "see its log, and what YURT_CONSUL_URL, _TOKEN and _CA say"
            yield Check("Consul", Verdict.FAIL, str(error), advice)
            return
        yield _traefik(settings, consul)


def _traefik(settings: Settings, consul: Server) -> Check:
    """Register a route of our own for a moment, and see that Traefik follows it."""
    from control.endpoints import consul_settings

    name = "Traefik"
    names = consul_settings(settings)
    nonce = secrets.token_hex(16)
    try:
        consul.put("/v1/catalog/register", probe(settings, nonce, names))
        try:
            seconds = _seconds_until_live(settings, nonce)
        finally:
            entry = {"Node": names.node, "ServiceID": f"doctor-{nonce}"}
            consul.put("/v1/catalog/deregister", entry)
    except YurtError as error:
        return Check(name, Verdict.FAIL, str(error), "see its log, and what YURT_URL says")
    if seconds is None:
        advice = "see its log: it reads the catalog of another Consul, or has no token for it"
        return Check(name, Verdict.FAIL, "it does not follow Consul's catalog", advice)
    return Check(name, Verdict.OK, f"a new route is live after {seconds:.2f} s")


def _seconds_until_live(settings: Settings, nonce: str) -> float | None:
    begin = time.monotonic()
    with asking.Server("Traefik", settings.base_url, {}) as traefik:
        while time.monotonic() < begin + _ROUTE_SECONDS:
            answer = traefik.response(f"/yurt-doctor/{nonce}")
            if answer.headers.get(_HEADER) == nonce:
                return time.monotonic() - begin
            time.sleep(_POLL_SECONDS)
    return None


def probe(settings: Settings, nonce: str, names: ConsulSettings) -> dict[str, Any]:
    """Describe a route to control whose answers bear ``nonce``; its id is no sandbox's."""
    from traefik.consul import registration

    door = urlsplit(settings.report_url)
    router = f"traefik.http.routers.doctor-{nonce}"
    middleware = f"traefik.http.middlewares.doctor-{nonce}"
    tags = [
        names.tag,
        "traefik.enable=true",
        f"{router}.rule=Path(`/yurt-doctor/{nonce}`)",
        f"{router}.priority=100000",
        f"{router}.middlewares=doctor-{nonce}",
        f"{router}.service=doctor-{nonce}",
        f"{middleware}.headers.customresponseheaders.{_HEADER}={nonce}",
        f"traefik.http.services.doctor-{nonce}.loadbalancer.server.scheme=http",
    ]
    instance = {
        "ID": f"doctor-{nonce}",
        "Address": door.hostname,
        "Port": door.port or 80,
        "Tags": tags,
    }
    return registration(names, instance)


def _registry(settings: Settings, snapshot: Snapshot | None) -> Iterator[Check]:
    name = "registry"
    if not settings.registry:
        advice = "set YURT_REGISTRY, or bring images to nodes by hand"
        yield Check(name, Verdict.WARN, "none is set", advice)
        return
    parts = urlsplit(settings.registry)
    with asking.Server("the registry", f"{parts.scheme}://{parts.netloc}", {}) as registry:
        try:
            registry.get("/v2/")
            yield Check(name, Verdict.OK, settings.registry)
            if snapshot is None:
                advice = "`./yurt up` makes one; `yurt snapshot publish` hands it to nodes"
                yield Check("snapshot", Verdict.FAIL, "there is no default snapshot", advice)
                return
            path = f"/v2{parts.path}/snapshots/manifests/{snapshot.image_id}"
            answer = registry.response(path, {"Accept": _MANIFEST})
            yield cluster_checks.registry_snapshot(
                snapshot.name, snapshot.image_id, is_there=answer.status_code == _OK
            )
        except (YurtError, ValueError) as error:
            yield Check(name, Verdict.FAIL, str(error), "see its log, and what YURT_REGISTRY says")
