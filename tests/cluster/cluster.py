"""The cluster as a whole: finding it again, what runs where, starting and hurting it.

    cluster.nodes[0].kill()              pull a host's plug
    cluster.restart(cluster.nodes[0])    and put it in again
    cluster.processes("nomad")           what to send signals to
    cluster.start(cluster.control, "postgres")

Making one is in ``making``, taking it away in ``removing``; how programs are configured in
``programs``.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from tests.cluster import programs
from tests.cluster.errors import ClusterError
from tests.cluster.host import Host, Program
from tests.cluster.network import Network

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Process

_TIMEOUT_SECONDS = 5.0
_CONTROL, _FIRST_SERVER, _FIRST_NODE = 2, 11, 21
_ON_CONTROL = ("consul", "postgres", "registry", "objects", "control", "traefik")
_ON_OTHERS = ("consul", "nomad")


@dataclass(slots=True, eq=False)
class Cluster:
    """The hosts of a cluster below one directory, and how to reach what runs on them.

    Attributes:
        directory: all of its files.
        network: how this machine reaches it.
        servers: hosts with a Nomad and a Consul server each.
        nodes: hosts with a Nomad and a Consul client each; sandboxes run there.
        control: the host with everything else.
        env: what clients, tests, and Nomad's and Consul's own command lines need.
        times: how many seconds each step of making it took.
        ports: what a node's Nomad gives to sandboxes once it is started again; None: its choice.
    """

    directory: Path
    network: Network
    servers: list[Host]
    nodes: list[Host]
    control: Host
    env: dict[str, str] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    ports: range | None = None

    @classmethod
    def load(cls, directory: Path) -> Cluster:
        """Find a cluster that was made before, whole or not.

        Raises:
            ClusterError: there is none.
        """
        try:
            state = json.loads((directory / "state.json").read_text())
        except FileNotFoundError:
            raise ClusterError(f"there is no cluster in {directory}: run `make cluster`") from None
        network = Network(state["number"])

        def host(name: str, last: int) -> Host:
            return Host(name, network.address(last), directory / "hosts" / name, network)

        cluster = cls(
            directory,
            network,
            [host(f"server-{i + 1}", _FIRST_SERVER + i) for i in range(state["servers"])],
            [host(f"node-{i + 1}", _FIRST_NODE + i) for i in range(state["nodes"])],
            host("control", _CONTROL),
        )
        with contextlib.suppress(FileNotFoundError):
            cluster.env = json.loads((directory / "env.json").read_text())
        return cluster

    @property
    def hosts(self) -> list[Host]:
        return [*self.servers, *self.nodes, self.control]

    @property
    def nomad_url(self) -> str:
        return f"http://{self.servers[0].address}:4646"

    @property
    def consul_url(self) -> str:
        """The agent beside control and Traefik: it answers as long as one server does."""
        return f"http://{self.control.address}:8500"

    @property
    def registry_url(self) -> str:
        return f"http://{self.control.address}:{programs.REGISTRY_PORT}"

    @property
    def objects_url(self) -> str:
        return f"http://{self.control.address}:{programs.OBJECTS_PORT}"

    @property
    def url(self) -> str:
        """Where clients on this machine reach Traefik."""
        return f"http://localhost:{self.network.port}"

    @property
    def database_url(self) -> str:
        password = (self.directory / "database.password").read_text()
        where = f"{self.control.address}:{programs.POSTGRES_PORT}"
        return f"postgresql://{programs.DATABASE}:{password}@{where}/{programs.DATABASE}"

    @property
    def settings(self) -> dict[str, str]:
        """The settings of control, but for where its data is."""
        return {
            "YURT_PORT": str(self.network.port),
            "YURT_URL": self.url,
            "YURT_CONTROL_LISTEN": f"{self.control.address}:{programs.CONTROL_PORT}",
            "YURT_DATABASE_URL": self.database_url,
            "YURT_NOMAD_URL": self.nomad_url,
            "YURT_NODE_POOL": programs.NODE_POOL,
            "YURT_CONSUL_URL": self.consul_url,
            "YURT_REGISTRY": f"{self.registry_url}/yurt",
            "YURT_ARCHIVE_URL": "s3://archives",
            "YURT_ARCHIVE_ENDPOINT": self.objects_url,
            "YURT_ARCHIVE_ACCESS_KEY": "any",
            "YURT_ARCHIVE_SECRET_KEY": "any",
            # So that a hundred of the smallest fit at once on nodes that share one machine.
            "YURT_MEMORY_RESERVE": "0.125",
            "YURT_START_DEADLINE_SECONDS": "300",
        }

    def programs_of(self, host: Host) -> tuple[str, ...]:
        """Name what belongs on a host, in the order in which it is started."""
        return _ON_CONTROL if host == self.control else _ON_OTHERS

    def start(self, host: Host, name: str) -> None:
        """Start one of the host's programs, or start it again after it was killed."""
        host.start(self._program(host, name))

    def restart(self, host: Host) -> None:
        """Switch a host on that was killed, and start all that belongs on it."""
        host.boot()
        if host in self.nodes:
            programs.prepare_node(host)  # the kernel forgot all rules
        for name in self.programs_of(host):
            self.start(host, name)

    def processes(self, name: str) -> list[Process]:
        """Find the processes of one program on all hosts."""
        found = (host.process(name) for host in self.hosts)
        return [process for process in found if process is not None]

    def _program(self, host: Host, name: str) -> Program:
        match name:
            case "consul":
                return programs.consul(host, self.servers)
            case "nomad":
                share = programs.machine_memory_mib() // len(self.nodes)
                return programs.nomad(host, self.servers, share, self.ports)
            case "postgres":
                return programs.postgres(host)
            case "registry":
                return programs.registry(host)
            case "objects":
                return programs.objects(host)
            case "control":
                return programs.control(host, self.settings)
            case "traefik":
                return programs.traefik(host)
            case _:
                pass
        known = ", ".join(dict.fromkeys([*_ON_OTHERS, *_ON_CONTROL]))
        raise ClusterError(f"no such program: {name} (there are: {known})")

    def nomad_ready(self) -> set[str]:
        """Name the nodes that Nomad would place something on."""
        listed = ask(f"{self.nomad_url}/v1/nodes") or []
        return {
            node["Name"]
            for node in listed
            if node["Status"] == "ready" and node["SchedulingEligibility"] == "eligible"
        }

    def consul_alive(self) -> set[str]:
        """Name the hosts whose Consul agents answer the others."""
        listed = ask(f"{self.consul_url}/v1/health/state/passing") or []
        return {check["Node"] for check in listed if check["CheckID"] == "serfHealth"}


def ask(url: str) -> Any:
    """What a server answers to GET, parsed; None while it does not answer or has a failure."""
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=False)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def put(url: str) -> bool:
    """Ask a server to make what a URL names; tell whether it is there."""
    try:
        answer = httpx.put(url, timeout=_TIMEOUT_SECONDS, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.is_success


def is_anybody_there(url: str) -> bool:
    """Tell whether a server answers at all, be it with a failure."""
    try:
        httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=False)
    except httpx.TransportError:
        return False
    return True
