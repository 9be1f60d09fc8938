"""The life of sandboxes on a cluster, and where they are in it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cluster import looking
from tests.cluster.cluster import ask
from tests.support.api import Sandbox
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.cluster import Cluster
    from tests.cluster.host import Host
    from tests.support.api import Api

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SMALL = {"cpu": 1, "memory": 1, "disk": 1}  # gibibytes
HERD, HERD_SECONDS = 100, 240
NO_ROOM_SECONDS = 5
# A heartbeat's time to live is at most 20 s, and 5 s are granted beyond.
LOST_SECONDS = 30
PORT = 3000
PAIRS, PORTS, AT_ONCE = 200, 20, 8


def expect_nothing_of(cluster: Cluster, sandbox_id: str) -> None:
    """All of a deleted sandbox goes within seconds: job, registration, disk, run directory."""
    eventually(
        lambda: not looking.traces(cluster, sandbox_id), f"no trace of {sandbox_id}", seconds=30
    )


def test_a_sandbox_lives_and_leaves_nothing(cluster: Cluster, api: Api) -> None:
    sandbox = api.create()
    where = looking.place(cluster, sandbox.id)
    print(f"allocation {where.allocation} on {where.node}, {where.address}:{where.port}")
    assert sandbox.check("hostname").strip() == sandbox.id
    sandbox.upload(b"<h1>kept</h1>", "/home/daytona/index.html")
    serve = f"cd /home/daytona && python3 -m http.server {PORT}"
    sandbox.background(serve)
    url, opening = sandbox.preview(PORT)

    def shown() -> str:
        return httpx.get(url, headers=opening, trust_env=False).text

    eventually(lambda: shown() == "<h1>kept</h1>", "the preview")
    sandbox.stop()
    assert looking.traces(cluster, sandbox.id) == [
        f"hosts/{where.node}/yurt/{what}/{sandbox.id}" for what in ("disks", "run/sandboxes")
    ]
    sandbox.start()
    assert sandbox.download("/home/daytona/index.html") == b"<h1>kept</h1>"
    sandbox.background(serve)
    assert sandbox.preview(PORT) == (url, opening)
    eventually(lambda: shown() == "<h1>kept</h1>", "the same preview")
    sandbox.delete()
    expect_nothing_of(cluster, sandbox.id)


def test_a_start_is_where_the_disk_is(cluster: Cluster, api: Api) -> None:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(api.sandbox(**SMALL)) for _ in range(4)]
        first = {one.id: looking.place(cluster, one.id).node for one in made}
        assert set(first.values()) == {node.name for node in cluster.nodes}
        for one in made:
            one.check(f"echo {one.id} > /home/daytona/name")
            one.stop()
        for one in made:
            one.start()
            assert one.check("cat /home/daytona/name").strip() == one.id
        assert {one.id: looking.place(cluster, one.id).node for one in made} == first
        assert looking.disks(cluster) == {one: [node] for one, node in first.items()}


def test_what_no_node_has_room_for_is_told_at_once(cluster: Cluster, api: Api) -> None:
    begin = time.monotonic()
    answer = api.call("POST", "/sandbox", json={"cpu": 1, "memory": 200, "disk": 1})
    spent = time.monotonic() - begin
    said = answer.json()
    print(f"refused after {spent * 1000:.0f} ms: {said}")
    assert spent < NO_ROOM_SECONDS
    assert "memory" in said["errorReason"]
    jobs = ask(f"{cluster.nomad_url}/v1/jobs?prefix=yurt-")
    assert [job["ID"] for job in jobs if said["id"] in job["ID"]] == []
    Sandbox(api, said["id"]).delete()
    expect_nothing_of(cluster, said["id"])


def test_a_hundred_creates_at_once_all_succeed(cluster: Cluster, api: Api) -> None:
    made: list[Sandbox] = []

    def create(_: int) -> float:
        begin = time.monotonic()
        sandbox = Sandbox(api, api.call("POST", "/sandbox", json=SMALL).json()["id"])
        made.append(sandbox)
        sandbox.wait_for("started", HERD_SECONDS)
        sandbox.check("true")
        return time.monotonic() - begin

    begin = time.monotonic()
    with ThreadPoolExecutor(HERD) as pool:
        try:
            spent = sorted(pool.map(create, range(HERD)))
            wall = time.monotonic() - begin
            nodes = Counter(looking.place(cluster, one.id).node for one in made)
        finally:
            list(pool.map(Sandbox.delete, made))
    print(
        f"{HERD} creates at once, each with a first command: {wall:.1f} s in all; "
        f"p50 {spent[HERD // 2]:.1f} s, p95 {spent[HERD * 95 // 100]:.1f} s; {dict(nodes)}"
    )
    assert set(nodes) == {node.name for node in cluster.nodes}
    eventually(lambda: not looking.disks(cluster), "all disks to be gone", seconds=120)
    assert looking.audit(cluster) == []


def test_a_node_that_is_down_is_told_and_its_sandboxes_start_when_it_is_back(
    cluster: Cluster, api: Api
) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(api.sandbox(**SMALL))
        host = looking.node(cluster, running.id)
        resting = stack.enter_context(sandbox_on(cluster, api, host))
        elsewhere = stack.enter_context(sandbox_on(cluster, api, other(cluster, host)))
        for one in (running, resting):
            one.check(f"echo {one.id} > /home/daytona/name && sync")
        resting.stop()
        host.kill()
        begin = time.monotonic()
        record = running.wait_for("unknown", LOST_SECONDS)
        print(f"after {time.monotonic() - begin:.1f} s: {record['errorReason']}")
        assert record["errorReason"].startswith(f"node unreachable: {host.name}")
        begin = time.monotonic()
        resting.act("start")
        said = resting.reason(NO_ROOM_SECONDS)
        print(f"start without its node, after {time.monotonic() - begin:.1f} s: {said}")
        assert host.name in said
        elsewhere.check("true")
        cluster.restart(host)
        record = running.wait_for("stopped", 60)
        assert record["errorReason"] == "its node was restarted"
        for one in (running, resting):
            one.start()
            assert looking.place(cluster, one.id).node == host.name
            assert one.check("cat /home/daytona/name").strip() == one.id
        assert looking.audit(cluster) == []


def other(cluster: Cluster, host: Host) -> Host:
    return next(node for node in cluster.nodes if node != host)


@contextlib.contextmanager
def sandbox_on(cluster: Cluster, api: Api, host: Host) -> Iterator[Sandbox]:
    """A sandbox on this node; Nomad spreads them, so one of the next few is."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            made = stack.enter_context(api.sandbox(**SMALL))
            if looking.node(cluster, made.id) == host:
                yield made
                return
    raise AssertionError(f"Nomad places nothing on {host.name}")


def test_a_port_that_is_used_again_never_answers_for_its_former_sandbox(
    cluster: Cluster, api: Api
) -> None:
    with few_ports(cluster):
        callers = Callers(api)
        ports: Counter[tuple[str, int]] = Counter()

        def pair(_: int) -> None:
            sandbox = api.create(**SMALL)
            where = looking.place(cluster, sandbox.id)
            ports[where.address, where.port] += 1
            assert sandbox.check("hostname").strip() == sandbox.id
            callers.call(sandbox, f"http://{where.address}:{where.port}")
            sandbox.delete()

        with callers.calling(), ThreadPoolExecutor(AT_ONCE) as pool:
            begin = time.monotonic()
            list(pool.map(pair, range(PAIRS)))
            wall = time.monotonic() - begin
    print(
        f"{PAIRS} pairs in {wall:.0f} s on {len(ports)} ports, one up to {max(ports.values())} "
        f"times; calls of old addresses: {dict(callers.statuses)}"
    )
    assert len(ports) <= PORTS * len(cluster.nodes)
    assert max(ports.values()) > 1, "no port was used again"
    assert callers.wrong == []
    assert sum(callers.statuses.values()) > PAIRS
    eventually(lambda: not looking.disks(cluster), "all disks to be gone", seconds=60)


@contextlib.contextmanager
def few_ports(cluster: Cluster) -> Iterator[None]:
    """Let each node have only so many ports for sandboxes; none may have one meanwhile."""
    set_ports(cluster, range(21000, 21000 + PORTS))
    try:
        yield
    finally:
        set_ports(cluster, None)


def set_ports(cluster: Cluster, ports: range | None) -> None:
    cluster.ports = ports
    for node in cluster.nodes:
        node.stop("nomad")
        cluster.start(node, "nomad")
    eventually(lambda: _registered(cluster, ports), "the nodes' ports", seconds=60)


def _registered(cluster: Cluster, ports: range | None) -> bool:
    """Tell whether Nomad's server has heard of the ports, and would place something."""
    if cluster.nomad_ready() != {node.name for node in cluster.nodes}:
        return False
    listed = ask(f"{cluster.nomad_url}/v1/nodes") or []
    whole = [ask(f"{cluster.nomad_url}/v1/node/{node['ID']}") for node in listed]
    first = [node["NodeResources"]["MinDynamicPort"] for node in whole if node]
    return ports is None or first == [ports[0]] * len(cluster.nodes)


class Callers:
    """Clients that go on calling addresses whose sandbox may be gone.

    Attributes:
        statuses: how often each status was answered; 0 for no answer.
        wrong: answers from inside of another sandbox; one that is cut short by the end of its own
            sandbox is empty.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._called: list[tuple[str, str]] = []
        self._over = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def call(self, sandbox: Sandbox, gate: str) -> None:
        """Call the newest few of those that were named: by Traefik, and straight at the gate."""
        with self._lock:
            self._called = [*self._called, *((sandbox.id, base) for base in (gate, ""))][-80:]

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(n,)) for n in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _run(self, number: int) -> None:
        while not self._over.is_set():
            with self._lock:
                mine = self._called[number::AT_ONCE]
            for sandbox_id, base in mine:
                self._ask(sandbox_id, base or self._api.base_url)
            self._over.wait(0.02)

    def _ask(self, sandbox_id: str, base: str) -> None:
        url = f"{base}/toolbox/{sandbox_id}/process/execute"
        status, said = 0, ""
        with contextlib.suppress(httpx.TransportError):
            answer = self._api.http.post(url, json={"command": "hostname"}, timeout=5)
            status = answer.status_code
            said = answer.json()["result"].strip() if status == 200 else ""
        with self._lock:
            self.statuses[status] += 1
            if said not in {"", sandbox_id}:
                self.wrong.append(f"{url} was answered by {said!r}")
