"""Schedulers over a Nomad for tests: the double, or real agents whose nodes have a stand-in runner.

The stand-in is a script where a node has its runner: it listens on its port, and ends as it is
told. What the real one does is shown elsewhere. Of the double's tasks the same is played.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from jobs.nomad import NomadSettings
from jobs.spec import RESULT, job_id
from tests.support.consul import Authority
from tests.support.nomad_agent import NomadAgents, end_agent, unmount_below
from tests.support.nomad_double import NomadDouble
from tests.support.waiting import eventually
from traefik.process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.nomad_double import Task

Json = dict[str, Any]
MEMORY_MIB = 2048
PORTS = {"node-1": (21300, 21309), "node-2": (21400, 21401)}
CLASSES = {"node-1": "large", "node-2": "small"}

STAND_IN = """
import json, os, signal, socket, sys, time
verb, *rest = sys.argv[1:]
if verb != "run":
    told, _, result = json.loads(rest[0]), *rest[1:]
    while told.get("waits_for") and not os.path.exists(told["waits_for"]):
        time.sleep(0.02)
    if told.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if told.get("is_silent"):
        sys.exit(0)
    said = {"error": told["error"]} if "error" in told else {"verb": verb, "told": told}
    with open(result + ".new", "w") as file:
        json.dump(said, file)
    os.rename(result + ".new", result)
    sys.exit("error" in told)
directory, job = rest[0], json.loads(rest[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
os.makedirs(directory, exist_ok=True)
with open(directory + "/spec.json", "w") as file:
    file.write(rest[1])
listener = socket.create_server((job["address"], int(job["port"])))
order = directory + "/order"
while not os.path.exists(order):
    time.sleep(0.02)
with open(order) as file:
    word, number = file.read().split()
os.remove(order)
if word == "hog":
    hog = [bytearray(1 << 20) for _ in range(int(number))]
    time.sleep(60)
if word == "signal":
    os.kill(os.getpid(), int(number))
    time.sleep(60)
sys.exit(int(number))
"""


def binary() -> str:
    found = shutil.which("nomad")
    if found is None or os.getuid() != 0:
        pytest.skip("needs nomad on PATH, and root")
    return found


@dataclass
class World:
    """One Nomad, real or not, with two nodes; a test asks both for the same."""

    one: NomadDouble | NomadAgents
    data: Path
    results: dict[str, Json] = field(default_factory=dict)

    @property
    def settings(self) -> NomadSettings:
        return NomadSettings(self.one.url, memory_reserve=1.0)

    @property
    def double(self) -> NomadDouble:
        assert isinstance(self.one, NomadDouble)
        return self.one

    def job_ids(self) -> list[str]:
        return [str(job["ID"]) for job in self.read("/jobs")]

    def read(self, path: str) -> Any:
        answer = httpx.get(f"{self.one.url}/v1{path}", timeout=20, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until_running(self, sandbox_id: str) -> None:
        eventually(lambda: self._runs(sandbox_id), f"{sandbox_id} to run", seconds=20)

    def _runs(self, sandbox_id: str) -> bool:
        listed = self.read(f"/job/{job_id(sandbox_id)}/allocations")
        return any(one["ClientStatus"] == "running" for one in listed)

    def end(self, sandbox_id: str, *, code: int = 0, by: int = 0) -> None:
        """End a running sandbox by itself, with an exit code or by a signal."""
        if isinstance(self.one, NomadDouble):
            self.one.finish(job_id(sandbox_id), code, by)
            return
        self.order(sandbox_id, f"signal {by}" if by else f"exit {code}")

    def order(self, sandbox_id: str, words: str) -> None:
        directory = self.data / "run" / "sandboxes" / sandbox_id
        eventually(lambda: (directory / "spec.json").exists(), f"{sandbox_id} to have begun")
        (directory / "order.new").write_text(words)
        (directory / "order.new").rename(directory / "order")

    def purge(self) -> None:
        if isinstance(self.one, NomadAgents):
            self.one.purge()


@contextmanager
def double(**settings: Any) -> Iterator[World]:
    """A double whose tasks play the stand-in runner."""
    with NomadDouble(status_delay=0.3, **settings) as one:
        for name, ports in PORTS.items():
            one.add_node(
                name,
                MEMORY_MIB,
                ports=ports,
                node_class=CLASSES[name],
                meta={"yurt_data": "/data", "yurt_python": "/python"},
            )
        one.on_start(_play)
        yield World(one, Path("/data"))


def _play(task: Task) -> None:
    verb, text, *_ = task.config["args"][3:]
    if verb == "run":
        return
    told = json.loads(text)
    if told.get("waits_for"):
        return
    if told.get("dies"):
        task.finish(0, signal.SIGKILL)
        return
    if not told.get("is_silent"):
        said = {"error": told["error"]} if "error" in told else {"verb": verb, "told": told}
        task.files[RESULT] = json.dumps(said).encode()
    task.finish(int("error" in told))


@contextmanager
def agents(directory: Path) -> Iterator[World]:
    """A real server and two real clients."""
    program = binary()
    data = directory / "data"
    meta = stand_in(data)
    (directory / "agents").mkdir()
    with NomadAgents(directory / "agents", program) as one:
        for name, ports in PORTS.items():
            one.add_node(name, MEMORY_MIB, ports=ports, node_class=CLASSES[name], meta=meta)
        yield World(one, data)


def stand_in(data: Path) -> dict[str, str]:
    """Put the stand-in where a node has its runner, and return the meta of its client."""
    runner = data / "lib" / "runner" / "jobs" / "runner"
    runner.mkdir(parents=True)
    (runner / "main.py").write_text(STAND_IN)
    return {"yurt_data": str(data), "yurt_python": sys.executable}


@dataclass
class Secured:
    """A real Nomad of one process that asks for certificates and tokens."""

    settings: NomadSettings
    authority: Authority
    management: str
    log: Path


@contextmanager
def secured(directory: Path) -> Iterator[Secured]:
    """Start one, and stop it with whatever runs in it."""
    program = binary()
    authority = Authority.at(directory)
    http, rpc, serf = free_ports(3)
    ports = {"http": http, "rpc": rpc, "serf": serf}
    configuration = {
        "name": "node-1",
        "bind_addr": "127.0.0.1",
        "advertise": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        "ports": ports,
        "data_dir": str(directory / "agent"),
        "disable_update_check": True,
        "acl": {"enabled": True},
        "tls": {
            "http": True,
            "verify_https_client": True,
            "ca_file": str(authority.ca),
            "cert_file": str(authority.cert),
            "key_file": str(authority.key),
        },
        "server": {
            "enabled": True,
            "bootstrap_expect": 1,
            "default_scheduler_config": {"memory_oversubscription_enabled": True},
        },
        "client": {
            "enabled": True,
            "network_interface": "lo",
            "meta": stand_in(directory / "data"),
            "host_volume": {"yurt": {"path": str(directory)}},
            "disk_total_mb": 1200,
            "reserved": {"disk": 200},
            "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"},
        },
        "plugin": {"raw_exec": {"config": {"enabled": True}}},
    }
    path = directory / "agent.json"
    path.write_text(json.dumps(configuration))
    own = NomadSettings(
        f"https://127.0.0.1:{http}",
        ca=authority.ca,
        cert=authority.cert,
        key=authority.key,
        memory_reserve=0.25,
    )
    log = directory / "agent.log"
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        agent = subprocess.Popen(
            [program, "agent", f"-config={path}"],
            env={"PATH": os.defpath, "HOME": "/"},
            stdout=output,
            stderr=output,
        )
        stack.callback(unmount_below, directory)
        stack.callback(end_agent, agent)
        client = stack.enter_context(_client(own))
        management = eventually(lambda: _bootstrap(client), "the first token", seconds=60)
        client.headers["X-Nomad-Token"] = management
        eventually(lambda: _is_ready(client), "the node to be ready", seconds=60)
        try:
            yield Secured(own, authority, management, log)
        finally:
            _purge(client)


def policy_token(secured: Secured, rules: str, name: str) -> str:
    """Make a token that may do what ``rules`` say."""
    with _client(secured.settings) as client:
        client.headers["X-Nomad-Token"] = secured.management
        made = client.post(f"/acl/policy/{name}", json={"Name": name, "Rules": rules})
        assert made.status_code == 200, made.text
        token = client.post("/acl/token", json={"Name": name, "Type": "client", "Policies": [name]})
        return str(token.json()["SecretID"])


def _client(settings: NomadSettings) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(settings.ca))
    assert settings.cert is not None
    context.load_cert_chain(settings.cert, settings.key)
    return httpx.Client(base_url=f"{settings.url}/v1", verify=context, timeout=20, trust_env=False)


def _bootstrap(client: httpx.Client) -> str:
    try:
        answer = client.post("/acl/bootstrap")
    except httpx.TransportError:
        return ""
    return str(answer.json()["SecretID"]) if answer.status_code == 200 else ""


def _is_ready(client: httpx.Client) -> bool:
    return [node["Status"] for node in client.get("/nodes").json()] == ["ready"]


def _purge(client: httpx.Client) -> None:
    for job in client.get("/jobs").json():
        client.delete(f"/job/{job['ID']}")
    over = {"complete", "failed", "lost"}
    eventually(
        lambda: {one["ClientStatus"] for one in client.get("/allocations").json()} <= over,
        "every allocation to be over",
        seconds=40,
    )
