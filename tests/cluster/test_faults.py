"""Whatever of a cluster is killed, what is not on it goes on, nothing runs twice, all is repaired.

The table that it prints has, for each fault: how long until everything answered again and the
audit found no difference, what became of sandboxes, and how long others paused at most.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cluster import looking
from tests.cluster.counting import Counter
from tests.support.processes import holder_of_lock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.cluster import Cluster
    from tests.cluster.host import Host
    from tests.support.api import Api, Sandbox
    from tests.support.processes import Process

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SANDBOXES = 30
SMALL = {"cpu": 1, "memory": 1, "disk": 1}
REPAIRED_SECONDS = 60
# Twice the longest heartbeat's time to live, and its grace.
AWAY_SECONDS = 45
OUTAGE_SECONDS = 180
# Half a second is between two lines; the rest is a machine that all nodes share.
PAUSE_SECONDS = 5.0
PORT = 3000

# What a client in a process of its own does, with nothing but URLs and a key.
_STRANGER = """
import json, sys, urllib.request
base, key, sandbox, url, token = sys.argv[1:]
def ask(url, headers, body=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, body, headers), timeout=10).read()
body = json.dumps({"command": "hostname"}).encode()
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
said = json.loads(ask(f"{base}/toolbox/{sandbox}/process/execute", headers, body))
page = ask(url, {"X-Daytona-Preview-Token": token}).decode()
print(json.dumps([said["result"].strip(), page.strip()]))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen of one fault."""

    fault: str
    repaired_seconds: float
    stopped: int
    reason: str
    longest_pause: float


@pytest.fixture(scope="module")
def counters(api: Api) -> Iterator[list[Counter]]:
    """Thirty sandboxes that count."""
    with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as stack:
        made = list(pool.map(lambda _: api.create(**SMALL), range(SANDBOXES)))
        stack.callback(lambda: list(pool.map(lambda one: one.delete(), made)))
        found = [Counter(sandbox) for sandbox in made]
        list(pool.map(Counter.begin, found))
        yield found


class Faults:
    """Injects one fault after the other, and notes what was seen."""

    def __init__(self, cluster: Cluster, api: Api, counters: list[Counter]) -> None:
        self.cluster, self.api, self.counters = cluster, api, counters
        self.rows: list[Row] = []

    def inject(
        self,
        title: str,
        hurt: Callable[[], object],
        mend: Callable[[], object] = lambda: None,  # Yurt does
        victims: list[Counter] | None = None,
    ) -> None:
        """Hurt, mend, and expect all but the victims never to have noticed."""
        hit = victims or []
        others = [one for one in self.counters if one not in hit]
        begin = time.time()
        hurt()
        mend()
        mended = time.monotonic()
        stopped = [one.sandbox.wait_for("stopped", REPAIRED_SECONDS) for one in hit]
        self._expect_all_answer(others)
        self.expect_no_difference()
        repaired = time.monotonic() - mended
        reasons = sorted({str(record["errorReason"]) for record in stopped})
        assert "None" not in reasons
        for one in hit:
            one.sandbox.start()
            one.begin()
            known = partial(looking.is_heard, self.cluster, one.sandbox.id)
            eventually(known, f"Nomad to hear of {one.sandbox.id}")
        with ThreadPoolExecutor(8) as pool:
            paused = max(pool.map(lambda one: one.longest_pause(begin), others))
            list(pool.map(Counter.expect_one_run_at_a_time, self.counters))
        row = Row(title, repaired, len(hit), "; ".join(reasons), paused)
        self.rows.append(row)
        print(table([row]), flush=True)

    def _expect_all_answer(self, counters: list[Counter]) -> None:
        eventually(self.api.answers, "the API", seconds=REPAIRED_SECONDS)
        for one in counters:
            eventually(partial(answers, one.sandbox), one.sandbox.id, seconds=30)

    def expect_no_difference(self) -> None:
        seen: list[str] = []

        def is_clean() -> bool:
            seen[:] = looking.audit(self.cluster)
            return not seen

        try:
            eventually(is_clean, "no difference", seconds=REPAIRED_SECONDS, pause_seconds=1)
        except AssertionError as error:
            raise AssertionError("\n".join(["the audit still finds:", *seen])) from error


def table(rows: list[Row]) -> str:
    return "\n".join(
        f"{row.fault:44} repaired {row.repaired_seconds:5.1f} s after, others paused at most "
        f"{row.longest_pause:4.1f} s, {row.stopped:2} stopped {row.reason}"
        for row in rows
    )


def answers(sandbox: Sandbox) -> bool:
    """Whether a new toolbox call comes back from this very sandbox."""
    with contextlib.suppress(AssertionError, httpx.TransportError):
        return sandbox.execute("hostname", seconds=10)[1].strip() == sandbox.id
    return False


def test_every_part_is_killed_in_turn(cluster: Cluster, api: Api, counters: list[Counter]) -> None:
    faults = Faults(cluster, api, counters)
    node, _ = cluster.nodes
    on = {one: looking.node(cluster, one.sandbox.id) for one in counters}
    print({host.name: sum(where == host for where in on.values()) for host in cluster.nodes})
    victim = next(one for one in counters if on[one] == node)
    faults.inject("a runner", runner_of(node, victim.sandbox).kill, victims=[victim])
    server = cluster.servers[0]
    for title, host, name, seconds in (
        ("the Nomad client of a node, for two heartbeats", node, "nomad", AWAY_SECONDS),
        ("the Nomad server", server, "nomad", 10),
        ("the Consul server", server, "consul", 10),
        ("the Consul agent of a node", node, "consul", 10),
        ("the Consul agent beside control and Traefik", cluster.control, "consul", 10),
        ("Traefik", cluster.control, "traefik", 0),
        ("control", cluster.control, "control", 0),
        ("PostgreSQL", cluster.control, "postgres", 10),
    ):
        faults.inject(title, *outage(cluster, host, name, seconds))
    faults.inject(
        "a node, whole, and its return",
        lambda: pull_the_plug(cluster, node, [one for one in counters if on[one] == node]),
        lambda: cluster.restart(node),
        [one for one in counters if on[one] == node],
    )
    print("\n" + table(faults.rows))
    assert [row for row in faults.rows if row.repaired_seconds > REPAIRED_SECONDS] == []
    assert [row for row in faults.rows if row.longest_pause > PAUSE_SECONDS] == []


def runner_of(host: Host, sandbox: Sandbox) -> Process:
    return holder_of_lock(looking.run_directory(host, sandbox.id) / "lock")


def outage(
    cluster: Cluster, host: Host, name: str, seconds: float
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Kill a program, and start it again after so long."""

    def hurt() -> None:
        host.stop(name)
        time.sleep(seconds)  # what is meant to be noticed takes this long

    return hurt, lambda: cluster.start(host, name)


def pull_the_plug(cluster: Cluster, host: Host, lost: list[Counter]) -> None:
    """Kill a node and wait until its sandboxes are known to be out of reach."""
    for one in lost:
        one.sandbox.check("sync")
    begin = time.monotonic()
    host.kill()
    for one in lost:
        record = one.sandbox.wait_for("unknown", 40)
        assert record["errorReason"].startswith(f"node unreachable: {host.name}")
    print(f"{len(lost)} sandboxes unknown after {time.monotonic() - begin:.1f} s")


def test_what_runs_goes_on_without_control_nomad_and_consul(
    cluster: Cluster, api: Api, counters: list[Counter]
) -> None:
    met, unmet = counters[0].sandbox, counters[-1].sandbox
    previews = {}
    for sandbox in (met, unmet):
        sandbox.check(f"mkdir -p /tmp/page && echo {sandbox.id} > /tmp/page/index.html")
        sandbox.background(f"cd /tmp/page && python3 -m http.server {PORT}")
        previews[sandbox.id] = sandbox.preview(PORT)
    eventually(lambda: shown(previews[met.id]) == met.id, "the preview")
    stopped = [(cluster.control, "control"), *((host, "nomad") for host in cluster.servers)]
    stopped += [(host, "consul") for host in cluster.hosts]
    begin = time.time()
    for host, name in stopped:
        host.stop(name)
    calls = 0
    while time.time() < begin + OUTAGE_SECONDS:
        assert answers(met)
        assert shown(previews[met.id]) == met.id
        calls += 2
        time.sleep(0.5)  # a client that goes on, not one that hurries
    assert stranger(api, unmet, previews[unmet.id]) == [unmet.id, unmet.id]
    paused = max(one.longest_pause(begin) for one in counters)
    print(f"{calls} calls in {OUTAGE_SECONDS} s, the longest pause {paused:.1f} s")
    for host, name in reversed(stopped):
        cluster.start(host, name)
    eventually(api.answers, "the API", seconds=REPAIRED_SECONDS)
    mended = time.monotonic()
    Faults(cluster, api, counters).expect_no_difference()
    print(f"no difference {time.monotonic() - mended:.1f} s after the API answered again")
    assert paused < PAUSE_SECONDS


def shown(preview: tuple[str, dict[str, str]]) -> str:
    url, headers = preview
    return httpx.get(url, headers=headers, trust_env=False, timeout=10).text.strip()


def stranger(api: Api, sandbox: Sandbox, preview: tuple[str, dict[str, str]]) -> list[str]:
    """Ask a sandbox for its name and its page, as a new process that never met it."""
    url, headers = preview
    key = api.http.headers["Authorization"].removeprefix("Bearer ")
    arguments = [api.base_url, key, sandbox.id, url, *headers.values()]
    ran = subprocess.run(
        [sys.executable, "-c", _STRANGER, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    said: list[str] = json.loads(ran.stdout)
    return said
