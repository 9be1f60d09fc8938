"""The jobs that Nomad is given, word for word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.nomad import NomadSettings
from jobs.scheduler import Job
from jobs.spec import job_id, render_job, render_work, sandbox_of

pytestmark = pytest.mark.unit

SETTINGS = NomadSettings("https://nomad:4646", "a secret", ca=Path("/ca"))
ID = "01" + "a" * 24
JOB = Job(
    sandbox_id=ID,
    generation=3,
    image_id="5" * 64,
    cpu=2,
    memory_mib=1024,
    disk_bytes=(3 << 30) + 1,
    pids=512,
    domain="localhost",
    control_url="https://10.9.0.1:9879",
)


def test_a_sandbox_is_rendered_as_one_job_with_one_task() -> None:
    assert render_job(JOB, SETTINGS) == {
        "ID": f"yurt-{ID}",
        "Name": f"yurt-{ID}",
        "Type": "batch",
        "Namespace": "default",
        "NodePool": "default",
        "Datacenters": ["*"],
        "Meta": {"yurt": "sandbox", "sandbox": ID, "generation": "3"},
        "Constraints": [{"LTarget": "${meta.yurt_data}", "Operand": "is_set"}],
        "TaskGroups": [
            {
                "Name": "sandbox",
                "Count": 1,
                "Disconnect": {
                    "LostAfter": 2_592_000_000_000_000,
                    "Replace": False,
                    "Reconcile": "keep_original",
                },
                "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
                "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
                "Volumes": {"yurt": {"Name": "yurt", "Type": "host", "Source": "yurt"}},
                "EphemeralDisk": {"SizeMB": 3073},
                "Networks": [{"DynamicPorts": [{"Label": "gate"}]}],
                "Tasks": [
                    {
                        "Name": "runner",
                        "Driver": "raw_exec",
                        "Config": {
                            "command": "${meta.yurt_python}",
                            "args": [
                                "-I",
                                "-S",
                                "${meta.yurt_data}/lib/runner/jobs/runner/main.py",
                                "run",
                                f"${{meta.yurt_data}}/run/sandboxes/{ID}",
                                f'{{"sandbox_id":"{ID}","generation":3,"image_id":"{"5" * 64}",'
                                '"cpu":2,"memory_mib":1024,"disk_bytes":3221225473,"pids":512,'
                                '"domain":"localhost","control_url":"https://10.9.0.1:9879","restore":false,'
                                '"address":"${NOMAD_IP_gate}","port":"${NOMAD_PORT_gate}",'
                                '"data":"${meta.yurt_data}"}',
                            ],
                        },
                        "Resources": {"CPU": 10, "MemoryMB": 272, "MemoryMaxMB": 1088},
                        "LogConfig": {"Disabled": True, "MaxFiles": 1, "MaxFileSizeMB": 1},
                        "KillSignal": "SIGTERM",
                        "KillTimeout": 30_000_000_000,
                    }
                ],
            }
        ],
    }


def test_work_is_rendered_by_the_same_blocks_and_named_by_what_it_does() -> None:
    job = render_work("remove-disk", {"sandbox_id": ID}, "node-7", SETTINGS)
    assert job == {
        "ID": "yurt-work-remove-disk-d329ac9f",
        "Name": "yurt-work-remove-disk-d329ac9f",
        "Type": "batch",
        "Namespace": "default",
        "NodePool": "default",
        "Datacenters": ["*"],
        "Meta": {"yurt": "work", "verb": "remove-disk"},
        "Constraints": [
            {"LTarget": "${meta.yurt_data}", "Operand": "is_set"},
            {"LTarget": "${node.unique.name}", "RTarget": "node-7", "Operand": "="},
        ],
        "TaskGroups": [
            {
                "Name": "sandbox",
                "Count": 1,
                "Disconnect": {
                    "LostAfter": 2_592_000_000_000_000,
                    "Replace": False,
                    "Reconcile": "keep_original",
                },
                "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
                "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
                "Volumes": {"yurt": {"Name": "yurt", "Type": "host", "Source": "yurt"}},
                "EphemeralDisk": {"SizeMB": 10},
                "Tasks": [
                    {
                        "Name": "runner",
                        "Driver": "raw_exec",
                        "Config": {
                            "command": "${meta.yurt_python}",
                            "args": [
                                "-I",
                                "-S",
                                "${meta.yurt_data}/lib/runner/jobs/runner/main.py",
                                "remove-disk",
                                f'{{"data":"${{meta.yurt_data}}","sandbox_id":"{ID}"}}',
                                "--result",
                                "${NOMAD_ALLOC_DIR}/result.json",
                            ],
                        },
                        "Resources": {"CPU": 10, "MemoryMB": 64, "MemoryMaxMB": 1024},
                        "LogConfig": {"Disabled": True, "MaxFiles": 1, "MaxFileSizeMB": 1},
                        "KillSignal": "SIGTERM",
                        "KillTimeout": 30_000_000_000,
                    }
                ],
            }
        ],
    }


def constraints(job: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["LTarget"], one["Operand"], one.get("RTarget", "")) for one in job["Constraints"]]


def test_settings_and_its_disk_say_where_a_sandbox_may_go() -> None:
    settings = NomadSettings("", namespace="ai", region="eu", node_pool="boxes", node_class="large")
    pinned = Job(**{name: getattr(JOB, name) for name in Job.__slots__} | {"node": "node-7"})
    job = render_job(pinned, settings, ["node-2", "node-1"])
    assert (job["Namespace"], job["Region"], job["NodePool"]) == ("ai", "eu", "boxes")
    assert constraints(job) == [
        ("${meta.yurt_data}", "is_set", ""),
        ("${node.class}", "=", "large"),
        ("${node.unique.name}", "=", "node-7"),
        ("${node.unique.name}", "!=", "node-1"),
        ("${node.unique.name}", "!=", "node-2"),
    ]
    assert constraints(render_work("sweep", {}, "", settings)) == constraints(job)[:2]


def test_no_secret_is_in_a_job() -> None:
    for job in (render_job(JOB, SETTINGS), render_work("sweep", {}, "", SETTINGS)):
        assert "secret" not in json.dumps(job)


ARGUMENTS: list[dict[str, Any]] = [{}, {"keep": []}]


def test_other_work_has_another_name() -> None:
    names = {
        render_work(verb, arguments, node, SETTINGS)["ID"]
        for verb in ("sweep", "inventory")
        for arguments in ARGUMENTS
        for node in ("", "node-1")
    }
    assert len(names) == 8


@pytest.mark.parametrize(
    ("name", "sandbox_id"),
    [(job_id(ID), ID), ("yurt-work-sweep-00000000", None), ("other", None), ("yurt", None)],
)
def test_a_job_tells_whose_it_is(name: str, sandbox_id: str | None) -> None:
    assert sandbox_of(name) == sandbox_id
