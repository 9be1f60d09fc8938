"""Routes as instances of one Consul service, whose tags Traefik reads (``consulCatalog``).

They hang on a node that exists only in the catalog, so that no agent takes them away
(anti-entropy removes from an agent's own node what it does not know). Each instance brings
routers and a service of its own: Traefik joins what has one name, and no two have.

Consul answers a token that may not read with an empty list, not with an error. So one more
instance is always there, the marker, which Traefik passes by: a list without it is not complete.

Whoever may write the service may make routes, and spoil ours: only control's token should.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import consul  # type: ignore[import-untyped]
from consul.callback import CB  # type: ignore[import-untyped]
from consul.exceptions import (  # type: ignore[import-untyped]
    ACLPermissionDenied,
    ConsulException,
)

from control.errors import UnavailableError
from traefik.registry import Route
from traefik.rules import is_sandbox_id, sandbox_configuration, tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

# Consul itself waits up to 7 s for a leader before it says that there is none.
TIMEOUT_SECONDS = 10.0

# Consul's words for a node that no agent stands behind; consul-esm is not to probe it.
NODE_META = {"external-node": "true", "external-probe": "false"}
# It also has an id: by those of node and instance Traefik tells the health of instances apart, and
# Consul refuses one that differs, so that a machine's node is not overwritten.
# Nodes need an address; instances have their own. This one is for documentation (RFC 5737).
NODE_ADDRESS = "192.0.2.1"

MARKER = "marker"

# How messages name the settings.
_VARIABLES = "YURT_CONSUL"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """Which Consul, as whom, and under which names; installations that share one differ there.

    ``ca`` certifies the server; without it the authorities of the certifi package do. ``cert``
    and ``key`` are shown to a server that asks.
    """

    url: str
    token: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    node: str = "yurt-routes"
    service: str = "yurt-sandbox"
    tag: str = "yurt"

    @property
    def endpoint(self) -> tuple[str, str, int]:
        """Scheme, host (an IPv6 address in brackets) and port.

        Raises:
            ValueError: the URL has something else or something is missing.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
            message = f"{self.url!r} is not http(s)://host:port of a Consul agent"
            raise ValueError(message)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return parts.scheme, host, parts.port or (8501 if parts.scheme == "https" else 8500)


class ConsulRegistry:
    """A ``RouteRegistry`` over Consul's catalog, to be closed when done (``async with``).

    Calls are made one after the other, in the order in which they were asked for, also when
    the caller gave up meanwhile: a late ``register`` never undoes a newer ``deregister``.
    """

    def __init__(self, settings: ConsulSettings) -> None:
        self.settings = settings
        self._client = _client(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="consul")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._client.http.session.close()

    async def register(self, route: Route) -> None:
        """See ``RouteRegistry.register``."""
        configuration = sandbox_configuration(route)
        instance = {
            "ID": route.sandbox_id,
            "Address": route.address,
            "Port": route.port,
            "Tags": [self.settings.tag, "traefik.enable=true", *tags(configuration)],
            "Meta": {"generation": str(route.generation), "domain": route.domain},
        }
        await self._in_order(lambda: self._put(instance))

    async def deregister(self, sandbox_id: str) -> None:
        """See ``RouteRegistry.deregister``."""
        if not is_sandbox_id(sandbox_id):
            message = f"{sandbox_id!r} is not a sandbox id"
            raise ValueError(message)
        await self._in_order(lambda: self._remove(sandbox_id))

    async def routes(self) -> list[Route]:
        """See ``RouteRegistry.routes``."""
        return await self._in_order(self._read_all)

    async def _in_order(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _put(self, instance: Mapping[str, Any]) -> None:
        self._write("register", registration(self.settings, instance))

    def _remove(self, service_id: str) -> None:
        self._write("deregister", {"Node": self.settings.node, "ServiceID": service_id})

    def _write(self, verb: str, body: Mapping[str, Any]) -> None:
        # Not ``catalog.register`` and ``.deregister``: with a token, py-consul 1.8 sends a field
        # that Consul refuses, and the token in the URL, too; and it loses the meta of a node.
        with self._translated():
            done = self._client.http.put(
                CB.boolean(),
                f"/v1/catalog/{verb}",
                data=json.dumps(body),
                headers=self._client.prepare_headers(),
            )
        self._require(done)

    def _read_all(self) -> list[Route]:
        found = self._instances()
        if MARKER not in found:
            self._put({"ID": MARKER, "Address": NODE_ADDRESS, "Tags": [self.settings.tag]})
            found = self._instances()
        if found.pop(MARKER, None) is None:
            raise UnavailableError(
                f"Consul at {self.settings.url} does not show what was just written: its token"
                f" ({_VARIABLES}_TOKEN) {self._policy()}"
            )
        return [_route(instance) for instance in found.values()]

    def _instances(self) -> dict[str, Mapping[str, Any]]:
        """Read what is ours, by instance id; the leader makes sure that it still leads."""
        settings = self.settings
        with self._translated():
            _, listed = self._client.catalog.service(
                settings.service, tag=settings.tag, consistency="consistent"
            )
        self._require(listed is not None)
        return {one["ServiceID"]: one for one in listed if is_ours(one, settings)}

    def _require(self, done: bool) -> None:
        if not done:
            raise UnavailableError(
                f"{self.settings.url} does not answer like Consul: set {_VARIABLES}_URL to one"
            )

    def _policy(self) -> str:
        settings = self.settings
        return (
            f'needs a policy with node "{settings.node}" and service "{settings.service}"'
            ' { policy = "write" }'
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what goes wrong into one error that says what to change."""
        url = self.settings.url
        try:
            yield
        except ACLPermissionDenied as exc:
            message = (
                f"Consul at {url} refuses: {exc}; the token ({_VARIABLES}_TOKEN) {self._policy()}"
            )
            raise UnavailableError(message) from exc
        except ConsulException as exc:
            message = (
                f"Consul at {url} cannot serve: {exc}; see its log"
                " and `consul operator raft list-peers`"
            )
            raise UnavailableError(message) from exc
        except OSError as exc:  # the root of what requests raises
            message = (
                f"cannot reach Consul at {url}: {exc}; see that its agent runs and what"
                f" {_VARIABLES}_URL, _CA, _CERT and _KEY say"
            )
            raise UnavailableError(message) from exc


def registration(settings: ConsulSettings, instance: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an instance of our service on our node, as Consul's catalog takes it."""
    return {
        "Node": settings.node,
        "ID": str(uuid5(NAMESPACE_URL, f"yurt:{settings.node}")),
        "Address": NODE_ADDRESS,
        "NodeMeta": NODE_META,
        "Service": {"Service": settings.service, **instance},
    }


def is_ours(instance: Mapping[str, Any], settings: ConsulSettings) -> bool:
    """Tell whether an instance as listed is one that we may list and take away.

    It bears our tag, on our node, under a sandbox id or as the marker. A stranger's of the same
    service name on another node is not.
    """
    name = instance["ServiceID"]
    return (
        instance["Node"] == settings.node
        and settings.tag in (instance["ServiceTags"] or ())
        and (name == MARKER or is_sandbox_id(name))
    )


def _route(instance: Mapping[str, Any]) -> Route:
    meta = instance["ServiceMeta"] or {}
    try:
        return Route(
            sandbox_id=instance["ServiceID"],
            generation=int(meta["generation"]),
            address=instance["ServiceAddress"],
            port=instance["ServicePort"],
            domain=meta["domain"],
        )
    except (KeyError, ValueError) as exc:
        name = instance["ServiceID"]
        message = (
            f"cannot list the routes: Consul's instance {name} on node {instance['Node']} is not"
            " one that we wrote; deregister it"
        )
        raise UnavailableError(message) from exc


def _client(settings: ConsulSettings) -> Any:
    scheme, host, port = settings.endpoint
    client = consul.Consul(
        host=host,
        port=port,
        scheme=scheme,
        verify=str(settings.ca) if settings.ca else True,
        cert=(str(settings.cert), str(settings.key)) if settings.cert else None,
        connections_timeout=TIMEOUT_SECONDS,
    )
    # The environment overrules the arguments there: CONSUL_HTTP_TOKEN, proxies, REQUESTS_CA_BUNDLE.
    client.token = settings.token or None
    client.http.session.trust_env = False
    return client
