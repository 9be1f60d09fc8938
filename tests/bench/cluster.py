"""Where the time goes between create and the first command when Nomad starts the sandbox.

    python -m tests.bench.cluster [--times N] [--cluster DIRECTORY]

Prints the median of each step, in milliseconds since the client asked: what the client, control's
log, Nomad's allocation and the runner's own marks say. All of them have one clock, which this
machine lends to its hosts. Without a cluster it makes one and takes it away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.figures import Row, text
from tests.cluster import looking, making
from tests.cluster.cluster import Cluster, ask
from tests.support.api import Api
from tests.support.remote import Remote
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = "330 / 600"
SMALL = {"cpu": 1, "memory": 1, "disk": 1}

Milestones = dict[str, float]


def one(cluster: Cluster, api: Api, made: contextlib.ExitStack) -> Milestones:
    """Create a sandbox, run a command in it, and tell when what was done, in milliseconds.

    It is deleted when ``made`` is left: its end would take the time of the next one's begin.
    """
    begin = time.time()
    sandbox = api.create(**SMALL)
    answered = time.time()
    made.callback(sandbox.delete)
    sandbox.check("true")
    first = time.time()
    seen = {
        "store: the record is written": _moment(sandbox.record()["createdAt"]),
        **_told_by_nomad(cluster, sandbox.id),
        **_told_by_control(cluster, sandbox.id),
        "API: create is answered": answered,
        "route: the first command is answered": first,
    }
    return {name: (at - begin) * 1000 for name, at in seen.items()}


def _told_by_nomad(cluster: Cluster, sandbox_id: str) -> Milestones:
    eventually(lambda: looking.is_heard(cluster, sandbox_id), f"Nomad to hear of {sandbox_id}")
    place = looking.place(cluster, sandbox_id)
    allocation = ask(f"{cluster.nomad_url}/v1/allocation/{place.allocation}")
    events = allocation["TaskStates"]["runner"]["Events"]
    named = {event["Type"]: event["Time"] / 1e9 for event in events}
    return {
        "Nomad: the allocation is made": allocation["CreateTime"] / 1e9,
        "Nomad: its node has it": named["Received"],
        "Nomad: the runner is started": named["Started"],
    }


def _told_by_control(cluster: Cluster, sandbox_id: str) -> Milestones:
    """Read control's log; the runner's marks count from its own begin, up to a report."""
    found: Milestones = {}
    for line in cluster.control.log("control").read_text().splitlines():
        if sandbox_id not in line:
            continue
        said: dict[str, Any] = json.loads(line)
        at = _moment(said["at"])
        if said.get("action") in {"Submit", "Register"}:
            title = {"Submit": "control: the job is sent", "Register": "control: it is placed"}
            found.setdefault(title[said["action"]], at)
        if said.get("phase") == "ready":
            marks: dict[str, int] = said.get("boot_ms") or {}
            start = at - max(marks.values(), default=0) / 1000
            found |= {f"runner: {step}": start + spent / 1000 for step, spent in marks.items()}
            found["report: control knows that it is ready"] = at
    return found


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@contextlib.contextmanager
def _cluster(directory: Path | None) -> Iterator[Cluster]:
    if directory is not None:
        yield Cluster.load(directory)
        return
    with making.temporary() as made:
        yield made


def main() -> int:
    parser = argparse.ArgumentParser(description="Time create → first command through Nomad.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--cluster", type=Path, metavar="DIRECTORY", help="one that is there")
    chosen = parser.parse_args()
    with _cluster(chosen.cluster) as cluster:
        api = Api(Remote(cluster.env["DAYTONA_API_URL"], cluster.env["DAYTONA_API_KEY"]))
        with contextlib.closing(api), contextlib.ExitStack() as made:
            one(cluster, api, made)  # the first of all pays for what is loaded once
            runs = [one(cluster, api, made) for _ in range(chosen.times)]
    names = set.intersection(*(set(run) for run in runs))
    medians = {name: statistics.median(run[name] for run in runs) for name in names}
    for name, at in sorted(medians.items(), key=lambda each: each[1]):
        print(f"{at:8.1f} ms  {name}")
    whole = [run["route: the first command is answered"] for run in runs]
    print(text(Row("create → first command, cold, through Nomad", whole, "ms", TARGET)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
