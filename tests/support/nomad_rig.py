"""One Nomad for a test, the double or a real one, and the raw requests that are made to it."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from tests.support.nomad_agent import NomadAgents
from tests.support.nomad_double import NomadDouble
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]
MISSING = "c0014433-b0dd-9da2-444f-aa38c7c82200"
PORTS = {"node-1": (21100, 21102), "node-2": (21200, 21202)}
MEMORY_MIB = 1024
REAL = pytest.param(
    "real",
    marks=[
        pytest.mark.cluster,
        pytest.mark.timeout(300),
        pytest.mark.skipif(not shutil.which("nomad"), reason="needs nomad on the path"),
        pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    ],
)
KINDS = [pytest.param("double", marks=pytest.mark.contract), REAL]


class Nomad:
    """One Nomad, real or not, and what a test asks of it."""

    def __init__(self, one: NomadDouble | NomadAgents) -> None:
        self.one = one
        self.http = httpx.Client(base_url=f"{one.url}/v1", timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def ask(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        return self.http.request(method, path, json=body)

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def job(self, job_id: str, node: str = "node-1", **more: Any) -> Json:
        """Make a job as the scheduler registers it; ``node`` "" pins it nowhere."""
        config: Json = {"command": "/bin/sh"}
        if isinstance(self.one, NomadAgents):
            config = self.one.task_config(job_id)
        volume = more.get("volume", "yurt")
        pin = {"LTarget": "${node.unique.name}", "RTarget": node, "Operand": "="}
        task = {
            "Name": "runner",
            "Driver": "raw_exec",
            "Config": config,
            "Resources": {"CPU": 50, "MemoryMB": more.get("memory", 10)},
            "KillTimeout": 2_000_000_000,
            "LogConfig": {"Disabled": True, "MaxFiles": 1, "MaxFileSizeMB": 1},
        }
        group = {
            "Name": "sandbox",
            "Count": 1,
            "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
            "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
            "Disconnect": more.get("disconnect", WAIT),
            "EphemeralDisk": {"SizeMB": 10},
            "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "gate"}]}],
            "Volumes": {"yurt": {"Name": "yurt", "Type": "host", "Source": volume}},
            "Tasks": [task],
        }
        return {
            "ID": job_id,
            "Name": job_id,
            "Type": "batch",
            "Datacenters": ["*"],
            "Meta": {"yurt": "sandbox", "generation": more.get("generation", "1")},
            "Constraints": more.get("constraints", [pin] if node else []),
            "TaskGroups": [group],
        }

    def register(self, job: Json, index: int | None = 0) -> httpx.Response:
        enforce = {"EnforceIndex": index is not None, "JobModifyIndex": index or 0}
        return self.ask("PUT", "/jobs", {"Job": job} | enforce)

    def start(self, job_id: str, node: str = "node-1", **more: Any) -> Json:
        """Register a job and wait until its task runs, by Nomad's word."""
        answer = self.register(self.job(job_id, node, **more))
        assert answer.status_code == 200, answer.text
        return self.until(job_id, "running")

    def newest(self, job_id: str) -> Json:
        found = self.get(f"/job/{job_id}/allocations")
        return dict(max(found, key=lambda a: a["CreateIndex"], default={}))

    def until(self, job_id: str, status: str, field: str = "ClientStatus") -> Json:
        def check() -> Json | None:
            found = self.newest(job_id)
            return found if found.get(field) == status else None

        found = eventually(check, f"{job_id} to be {status}", seconds=30)
        assert found is not None
        return found

    def evaluations(self, job_id: str) -> dict[str, Json]:
        """The newest evaluation of a job for each of its triggers."""
        found = sorted(self.get(f"/job/{job_id}/evaluations"), key=lambda e: e["CreateIndex"])
        return {evaluation["TriggeredBy"]: evaluation for evaluation in found}

    def blocked(self, job_id: str) -> Json:
        """Wait until a job is known to find no room, and return why."""
        eventually(
            lambda: self.evaluations(job_id).get("queued-allocs", {}).get("Status") == "blocked",
            f"{job_id} to be blocked",
        )
        registered = eventually(
            lambda: (
                found
                if (found := self.evaluations(job_id)["job-register"])["Status"] == "complete"
                else None
            ),
            "the first evaluation to be complete",
        )
        assert registered is not None
        evaluations = self.evaluations(job_id)
        assert registered["BlockedEval"] == evaluations["queued-allocs"]["ID"]
        assert evaluations["queued-allocs"]["PreviousEval"] == registered["ID"]
        assert registered["QueuedAllocations"] == {"sandbox": 1}
        failed = registered["FailedTGAllocs"]
        assert evaluations["queued-allocs"]["FailedTGAllocs"] == failed
        return dict(failed["sandbox"])

    def node(self, name: str) -> Json:
        (node,) = [n for n in self.get("/nodes?resources=true") if n["Name"] == name]
        return dict(node)

    def port(self, job_id: str) -> tuple[str, int]:
        (own,) = [a for a in self.get("/allocations?resources=true") if a["JobID"] == job_id]
        (port,) = own["AllocatedResources"]["Shared"]["Ports"]
        assert port["Label"] == "gate"
        return port["HostIP"], port["Value"]

    def purge(self) -> None:
        for job in self.get("/jobs"):
            self.ask("DELETE", f"/job/{job['ID']}")
        over = {"complete", "failed", "lost"}
        eventually(
            lambda: {a["ClientStatus"] for a in self.get("/allocations")} <= over,
            "every allocation to be over",
            seconds=30,
        )
        for job in self.get("/jobs"):
            self.ask("DELETE", f"/job/{job['ID']}?purge=true")


WAIT = {"LostAfter": 3_600_000_000_000, "Replace": False, "Reconcile": "keep_original"}


@contextmanager
def a_double(**settings: Any) -> Iterator[NomadDouble]:
    with NomadDouble(status_delay=0.3, **settings) as double:
        for name, ports in PORTS.items():
            double.add_node(
                name,
                MEMORY_MIB,
                ports=ports,
                addresses=("127.0.0.1", "::1"),
                node_class=f"class-{name}",
                meta={"yurt_data": "/data"},
            )
        yield double


@contextmanager
def one_of(kind: str, directory: Path) -> Iterator[Nomad]:
    """Have a Nomad of two nodes: ``double`` or ``real``."""
    if kind == "double":
        with a_double() as double, Nomad(double) as nomad:
            yield nomad
        return
    with NomadAgents(directory, shutil.which("nomad") or "") as agents:
        for name, ports in PORTS.items():
            agents.add_node(
                name,
                MEMORY_MIB,
                ports=ports,
                node_class=f"class-{name}",
                meta={"yurt_data": "/data"},
            )
        with Nomad(agents) as nomad:
            yield nomad


@contextmanager
def events(nomad: Nomad, query: str) -> Iterator[Iterator[Json]]:
    with nomad.http.stream("GET", f"/event/stream?{query}", timeout=10) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"
        yield (json.loads(line) for line in answer.iter_lines())


def index_of(nomad: Nomad, path: str) -> int:
    return int(nomad.ask("GET", path).headers["X-Nomad-Index"])
