"""Make a cluster, showing each step; when one fails, what there is stays for a look at it."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from control.cli.output import Output
from control.model import REGION
from control.resolvers import name_servers
from control.settings import Settings
from control.vault import load_keys
from tests.cluster import network as networks, programs
from tests.cluster.cluster import Cluster, ask, is_anybody_there, put
from tests.cluster.errors import ClusterError
from tests.cluster.host import tail, until
from tests.cluster.removing import take_down
from tests.support import census

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.host import Host

READY_SECONDS = 60.0
# A client of Nomad that finds no server tries again much later; control wants all of it at once.
_LATER = ("nomad", "control", "traefik")


@contextlib.contextmanager
def temporary(*, servers: int = 1, nodes: int = 2) -> Iterator[Cluster]:
    """Yield a cluster of the caller's own; afterwards nothing of it may be left.

    Raises:
        AssertionError: something was still there when it had been taken away.
    """
    parent = Path(tempfile.mkdtemp(prefix="yurt-cluster-", dir="/var/tmp"))
    directory = parent / "cluster"
    ours: list[str] = []
    try:
        yield make(directory, servers=servers, nodes=nodes)
    finally:
        if directory.exists():
            ours = take_down(directory).ours
        shutil.rmtree(parent)
    if ours:
        raise AssertionError("after the cluster:\n" + "\n".join(ours))


def make(
    directory: Path, *, servers: int = 1, nodes: int = 2, output: Output | None = None
) -> Cluster:
    """Make a cluster whose files are below ``directory``, which must not exist.

    Raises:
        MissingError: a program is not installed; nothing was made.
        ClusterError: a step failed; with the end of the log concerned.
    """
    programs.require()
    output = output or Output()
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        message = f"there is a cluster in {directory} already; `make cluster-down` takes it away"
        raise ClusterError(message) from None
    before = {kind: sorted(items) for kind, items in census.take(directory).items()}
    (directory / "census.json").write_text(json.dumps(before))
    network = networks.reserve()
    state = {
        "number": network.number,
        "servers": servers,
        "nodes": nodes,
        "forwarding": networks.forwarding(),
    }
    (directory / "state.json").write_text(json.dumps(state))
    cluster = Cluster.load(directory)
    _Steps(cluster, output).all()
    return cluster


@dataclass(frozen=True, slots=True)
class _Steps:
    cluster: Cluster
    output: Output

    def all(self) -> None:
        hosts = self.cluster.hosts
        with self._step(f"switching {len(hosts)} hosts on"):
            self._switch_on()
        with self._step("starting servers"):
            _at_once(partial(self._start_first, host) for host in hosts)
            self._until_answered()
        with self._step("starting nodes"):
            self._start_nodes()
        with self._step("starting control"):
            self._start_control()
        with self._step("preparing nodes"):
            self._prepare_nodes()
        with self._step("handing the default snapshot to nodes"):
            self._hand_out_snapshot()
        self._write_env()

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        begin = time.monotonic()
        with self.output.step(title):
            yield
        self.cluster.times[title] = time.monotonic() - begin

    def _switch_on(self) -> None:
        cluster = self.cluster
        cluster.network.make(cluster.control.address)
        resolvers = "".join(f"nameserver {server}\n" for server in name_servers(Settings()))
        for host in cluster.hosts:
            # Open to the user of the database, who has no other way to its files.
            host.directory.mkdir(mode=0o755, parents=True)
            (host.directory / "resolv.conf").write_text(resolvers)
        for node in cluster.nodes:
            programs.make_node_directories(node)
        _at_once(host.boot for host in cluster.hosts)

    def _start_first(self, host: Host) -> None:
        """Start what needs nobody else."""
        cluster = self.cluster
        if host == cluster.control:
            password = secrets.token_urlsafe(24)
            (cluster.directory / "database.password").write_text(password)
            programs.make_database(host, password)
        for name in cluster.programs_of(host):
            if name not in _LATER or host in cluster.servers:
                cluster.start(host, name)

    def _until_answered(self) -> None:
        cluster = self.cluster
        server, control = cluster.servers[0], cluster.control
        _until(
            lambda: bool(ask(f"{cluster.nomad_url}/v1/status/leader")),
            "Nomad has a leader",
            server,
            "nomad",
        )
        everybody = {host.name for host in cluster.hosts}
        _until(
            lambda: cluster.consul_alive() >= everybody,
            f"Consul sees {', '.join(sorted(everybody))}",
            control,
            "consul",
        )
        _until(
            lambda: programs.database_answers(control),
            "PostgreSQL answers",
            control,
            "postgres",
        )
        _until(
            lambda: ask(f"{cluster.registry_url}/v2/") is not None,
            "the registry answers",
            control,
            "registry",
        )
        _until(
            lambda: put(f"{cluster.objects_url}/archives"),
            "the object store has a bucket",
            control,
            "objects",
        )

    def _start_nodes(self) -> None:
        cluster = self.cluster
        for node in cluster.nodes:
            cluster.start(node, "nomad")
        for node in cluster.nodes:
            _until(partial(_is_ready, cluster, node), f"Nomad has {node.name}", node, "nomad")

    def _start_control(self) -> None:
        cluster = self.cluster
        for name in ("control", "traefik"):
            cluster.start(cluster.control, name)
        door = f"http://{cluster.control.address}:{programs.CONTROL_PORT}/health"
        _until(partial(is_anybody_there, door), "control answers", cluster.control, "control")
        _until(
            lambda: ask(f"{cluster.url}/api/health") is not None,
            "control answers through Traefik",
            cluster.control,
            "traefik",
        )

    def _prepare_nodes(self) -> None:
        cluster = self.cluster
        for node in cluster.nodes:
            programs.join_node(node, cluster.control, cluster.settings)
        _at_once(partial(programs.prepare_node, node) for node in cluster.nodes)

    def _hand_out_snapshot(self) -> None:
        cluster = self.cluster
        image_id = programs.publish_default_snapshot(cluster.control, cluster.settings)
        _at_once(partial(programs.fetch_image, node, image_id) for node in cluster.nodes)

    def _write_env(self) -> None:
        cluster = self.cluster
        data = programs.inside(cluster.control, programs.DATA)
        cluster.env = {
            "DAYTONA_API_URL": f"{cluster.url}/api",
            "DAYTONA_SERVER_URL": f"{cluster.url}/api",
            "DAYTONA_API_KEY": load_keys(data).api_key,
            "DAYTONA_TARGET": REGION,
            "NOMAD_ADDR": cluster.nomad_url,
            "CONSUL_HTTP_ADDR": cluster.consul_url,
            "YURT_DATA": str(data),
            **cluster.settings,
        }
        (cluster.directory / "env.json").write_text(json.dumps(cluster.env))
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in cluster.env.items()]
        (cluster.directory / "env").write_text("".join(lines))


def _is_ready(cluster: Cluster, node: Host) -> bool:
    return node.name in cluster.nomad_ready()


def _until(check: Callable[[], bool], what: str, host: Host, program: str) -> None:
    """Wait until something holds, as long as the program that it depends on runs."""

    def holds() -> bool:
        if check():
            return True
        if host.process(program) is None:
            log = tail(host.log(program))
            raise ClusterError(f"{program} ended on {host.name} before this: {what}\n{log}")
        return False

    until(holds, what, log=host.log(program), seconds=READY_SECONDS)


def _at_once(calls: Iterator[Callable[[], None]]) -> None:
    with ThreadPoolExecutor() as pool:
        for begun in [pool.submit(call) for call in calls]:
            begun.result()
