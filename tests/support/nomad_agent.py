"""A real Nomad on this machine for tests: one server, and a client agent for each node.

It has the face of ``NomadDouble`` where a test can ask both for the same. A node is lost by
stopping its agent's process, so that what it runs goes on. Needs root and ``nomad`` on the path.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]
# An agent that finds some variables of its user in its environment does not start.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}
_NO_PROBES = "env_aws,env_gce,env_azure,env_digitalocean"
_START_SECONDS = 60


class NomadAgents:
    """A server whose nodes are lost within seconds; everything below ``directory``."""

    def __init__(self, directory: Path, program: str, *, acl: bool = False) -> None:
        self._directory, self._program, self._acl = directory, program, acl
        self._rpc = _free_port()
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "acl": {"enabled": acl},
            "server": {
                "enabled": True,
                "bootstrap_expect": 1,
                "min_heartbeat_ttl": "1s",
                "heartbeat_grace": "1s",
                "max_heartbeats_per_second": 1000,
            },
        }
        self._server = self._start("server", settings, http=port, rpc=self._rpc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._acl:
            self.purge()
        for agent in [*self._clients.values(), self._server]:
            agent.send_signal(signal.SIGCONT)
            end_agent(agent)
        unmount_below(self._directory)

    def add_node(
        self,
        name: str,
        memory_mib: int,
        *,
        ports: tuple[int, int],
        volumes: tuple[str, ...] = ("yurt",),
        meta: Mapping[str, str] | None = None,
        node_class: str = "",
    ) -> None:
        """Start a client and wait until its node is ready."""
        disk = self._directory / "disk"
        disk.mkdir(exist_ok=True)
        settings = {
            "name": name,
            "plugin": {"raw_exec": {"config": {"enabled": True}}},
            "client": {
                "enabled": True,
                "servers": [f"127.0.0.1:{self._rpc}"],
                "memory_total_mb": memory_mib,
                "cpu_total_compute": 100_000,
                "min_dynamic_port": ports[0],
                "max_dynamic_port": ports[1],
                "node_class": node_class,
                "network_interface": "lo",
                "meta": dict(meta or {}),
                "host_volume": {volume: {"path": str(disk)} for volume in volumes},
                "options": {"fingerprint.denylist": _NO_PROBES},
            },
        }
        self._clients[name] = self._start(name, settings, http=_free_port(), rpc=_free_port())
        eventually(
            lambda: ("ready", name) in self._nodes(), f"{name} to be ready", seconds=_START_SECONDS
        )

    def lose_node(self, name: str) -> None:
        self._clients[name].send_signal(signal.SIGSTOP)

    def return_node(self, name: str) -> None:
        self._clients[name].send_signal(signal.SIGCONT)

    # A task is a shell that waits for its orders in a file.

    def task_config(self, job_id: str) -> Json:
        orders = self._orders(job_id)
        wait = f"while [ ! -e {orders} ]; do sleep 0.05; done; . {orders}"
        return {"command": "/bin/sh", "args": ["-c", wait]}

    def finish(self, job_id: str, exit_code: int = 0, signal: int = 0) -> None:
        order = f"kill -{signal} $$; sleep 9" if signal else f"exit {exit_code}"
        self._order(job_id, order)

    def finish_with_file(self, job_id: str, name: str, content: str) -> None:
        """End a task well after it has left a file in the directory of its allocation."""
        self._order(job_id, f"echo -n '{content}' > $NOMAD_ALLOC_DIR/{name}")

    def _order(self, job_id: str, order: str) -> None:
        draft = self._directory / "draft"
        draft.write_text(order)
        draft.rename(self._orders(job_id))

    def _orders(self, job_id: str) -> Path:
        return self._directory / f"orders-{job_id}"

    def purge(self) -> None:
        """End and forget every job."""
        for job in self._call("GET", "/v1/jobs"):
            self._call("DELETE", f"/v1/job/{job['ID']}")
        over = {"complete", "failed", "lost"}
        eventually(
            lambda: all(a["ClientStatus"] in over for a in self._call("GET", "/v1/allocations")),
            "all allocations to be over",
            seconds=30,
        )
        for job in self._call("GET", "/v1/jobs"):
            self._call("DELETE", f"/v1/job/{job['ID']}?purge=true")
        self._call("PUT", "/v1/system/gc")

    def _start(
        self, name: str, settings: Mapping[str, Any], *, http: int, rpc: int
    ) -> subprocess.Popen[bytes]:
        ports = {"http": http, "rpc": rpc, "serf": _free_port()}
        whole = {
            "bind_addr": "127.0.0.1",
            "data_dir": str(self._directory / name),
            "disable_update_check": True,
            "log_level": "WARN",
            "ports": ports,
            "advertise": {key: f"127.0.0.1:{port}" for key, port in ports.items()},
        }
        path = self._directory / f"{name}.json"
        path.write_text(json.dumps(whole | dict(settings)))
        (self._directory / name).mkdir()
        with (self._directory / f"{name}.log").open("wb") as log:
            agent = subprocess.Popen(
                [self._program, "agent", "-config", str(path)],
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        address = f"http://127.0.0.1:{http}/v1/status/leader"
        eventually(lambda: _answers(address), f"{name} to answer", seconds=_START_SECONDS)
        return agent

    def _nodes(self) -> set[tuple[str, str]]:
        return {(node["Status"], node["Name"]) for node in self._call("GET", "/v1/nodes")}

    def _call(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
            return json.loads(body) if body else None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return len(answer.read()) > 4
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def end_agent(agent: subprocess.Popen[bytes]) -> None:
    agent.send_signal(signal.SIGINT)
    try:
        agent.wait(20)
    finally:
        agent.kill()
        agent.wait()


def unmount_below(directory: Path) -> None:
    """Unmount what an agent leaves mounted."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    for path in (line.split()[1] for line in mounts):
        if path.startswith(str(directory)):
            subprocess.run(["umount", path], check=True)
