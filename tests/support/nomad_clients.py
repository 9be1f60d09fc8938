"""The clients' half of the Nomad double: tasks that only play, and statuses that come late.

What runs on a node is not what the servers believe: a task goes on while its node is out of reach
and after its job was purged, until its client hears of it.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support import nomad_forms as forms
from tests.support.nomad_placement import CLIENT_TERMINAL
from tests.support.nomad_state import group_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.nomad_state import NomadState

Json = dict[str, Any]
_PULL_SECONDS = 0.03
_START_SECONDS = 0.05
# Nomad sends ends on every tick of its client and the rest on every fifth.
_URGENT = 0.2


@dataclass(slots=True, eq=False)
class Task:
    """One task on a node. ``files`` are below its allocation's directory: ``alloc/result.json``."""

    allocation_id: str
    job_id: str
    node: str
    address: str
    ports: dict[str, int]
    meta: dict[str, str]
    config: Json
    kill_timeout: float
    clients: NomadClients = field(repr=False)
    files: dict[str, bytes] = field(default_factory=dict)
    state: Json = field(default_factory=forms.fresh_task, repr=False)
    is_stopping: bool = False
    client_status: str = "pending"
    description: str = ""

    @property
    def is_running(self) -> bool:
        return bool(self.state["State"] == "running")

    def finish(self, exit_code: int = 0, signal: int = 0) -> None:
        """End; by a signal the exit code is 128 more than it, as raw_exec has it."""
        self.clients.ended(self, 128 + signal if signal else exit_code, signal)


@dataclass(slots=True, eq=False)
class Client:
    node_id: str
    tasks: dict[str, Task] = field(default_factory=dict)
    outbox: set[str] = field(default_factory=set)
    is_reachable: bool = True


class NomadClients:
    """All nodes' clients."""

    def __init__(self, state: NomadState, status_delay: float) -> None:
        self.by_node: dict[str, Client] = {}
        self.on_start: Callable[[Task], None] = lambda _: None
        self.on_stop: Callable[[Task], None] = Task.finish
        self.driver_error: Callable[[], str] = lambda: ""
        self._state, self._status_delay = state, status_delay
        self._lock = threading.RLock()
        state.wake_client = self.wake

    def tasks(self, job_id: str) -> list[Task]:
        with self._lock:
            every = [task for client in self.by_node.values() for task in client.tasks.values()]
        return [task for task in every if task.job_id == job_id]

    def find(self, allocation_id: str) -> Task | None:
        with self._lock:
            for client in self.by_node.values():
                if allocation_id in client.tasks:
                    return client.tasks[allocation_id]
        return None

    def is_reachable(self, task: Task) -> bool:
        with self._lock:
            return any(
                client.is_reachable and task.allocation_id in client.tasks
                for client in self.by_node.values()
            )

    def wake(self, node_id: str) -> None:
        self._state.clockwork.later(_PULL_SECONDS, lambda: self._pull(self.by_node[node_id]))

    def _pull(self, client: Client) -> None:
        if not client.is_reachable:
            return
        with self._state.changed:
            known = {a["ID"]: a for a in self._state.on_node(client.node_id)}
            wanted = {key for key, a in known.items() if a["DesiredStatus"] == "run"}
            fresh = {
                key: copy.deepcopy(known[key])
                for key in wanted
                if key not in client.tasks and known[key]["ClientStatus"] not in CLIENT_TERMINAL
            }
            stopped = known.keys() - wanted - client.tasks.keys()
            never = [known[key] for key in stopped if known[key]["ClientStatus"] == "pending"]
        for allocation in never:
            self._never_start(client, allocation)
        for allocation in fresh.values():
            self._receive(client, allocation)
        for key, task in list(client.tasks.items()):
            if key not in wanted:
                self._kill(task)

    def _receive(self, client: Client, allocation: Json) -> Task:
        task = _task(self, allocation)
        with self._lock:
            client.tasks[task.allocation_id] = task
        self._state.clockwork.later(_START_SECONDS, lambda: self._start(client, task))
        return task

    def _never_start(self, client: Client, allocation: Json) -> None:
        task = _task(self, allocation)
        task.is_stopping = True
        with self._lock:
            client.tasks[task.allocation_id] = task
        self.ended(task, 0, 0)

    def _start(self, client: Client, task: Task) -> None:
        with self._lock:
            if task.state["State"] == "dead":
                return
            setup = "Building Task Directory"
            task.state["Events"].append(forms.task_event("Task Setup", setup, Message=setup))
            error = self.driver_error()
            if not error:
                event = forms.task_event("Started", "Task started by client")
                task.state["Events"].append(event)
                task.state |= {"State": "running", "StartedAt": forms.now_text()}
                task.client_status, task.description = "running", "Tasks are running"
        if error:
            event = forms.task_event("Driver Failure", error, DriverError=error)
            task.state["Events"].append(event)
            self._end(client, task, failed=True)
            return
        self._send(client, task, self._status_delay)
        self.on_start(task)

    def _kill(self, task: Task) -> None:
        with self._lock:
            if task.is_stopping or task.state["State"] == "dead":
                return
            task.is_stopping = True
            limit = f"{task.kill_timeout:g}s"
            message = f"Sent interrupt. Waiting {limit} before force killing"
            timeout = int(task.kill_timeout * 1e9)
            event = forms.task_event("Killing", message, KillTimeout=timeout)
            task.state["Events"].append(event)
        self._state.clockwork.later(task.kill_timeout, lambda: self.ended(task, 137, 9))
        self.on_stop(task)

    def ended(self, task: Task, exit_code: int, signal: int) -> None:
        """Take note of an end; a second one is none."""
        client = next(c for c in self.by_node.values() if task.allocation_id in c.tasks)
        with self._lock:
            if task.state["State"] == "dead":
                return
            if task.state["StartedAt"]:
                task.state["Events"].append(forms.terminated(exit_code, signal))
            if task.is_stopping:
                event = forms.task_event("Killed", "Task successfully killed")
                task.state["Events"].append(event)
            self._end(client, task, failed=exit_code != 0 and not task.is_stopping)

    def _end(self, client: Client, task: Task, *, failed: bool) -> None:
        with self._lock:
            if failed:
                reason = "Policy allows no restarts"
                event = forms.task_event(
                    "Not Restarting", reason, RestartReason=reason, FailsTask=True
                )
                task.state["Events"].append(event)
            task.state |= {"State": "dead", "Failed": failed, "FinishedAt": forms.now_text()}
            task.client_status = "failed" if failed else "complete"
            task.description = "Failed tasks" if failed else "All tasks have completed"
        self._send(client, task, self._status_delay * _URGENT)

    # -- what the servers are told -----------------------------------------------------------

    def _send(self, client: Client, task: Task, seconds: float) -> None:
        with self._lock:
            client.outbox.add(task.allocation_id)
        self._state.clockwork.later(seconds, lambda: self.flush(client))

    def flush(self, client: Client) -> None:
        """Send what has changed; a client that cannot be reached keeps it."""
        if not client.is_reachable:
            return
        with self._lock:
            changed = [client.tasks[key] for key in sorted(client.outbox)]
            client.outbox.clear()
        with self._state.changed:
            known = [t for t in changed if t.allocation_id in self._state.allocations]
            if known:
                self._update(client, known)

    def _update(self, client: Client, tasks: list[Task]) -> None:
        freed = False
        with self._state.write("AllocationUpdated") as entry:
            for task in tasks:
                allocation = self._state.allocations[task.allocation_id]
                freed = freed or task.client_status in CLIENT_TERMINAL
                was = allocation["ClientStatus"]
                allocation["ClientStatus"] = task.client_status
                allocation["ClientDescription"] = task.description
                allocation["TaskStates"] = {
                    group_of(allocation)["Tasks"][0]["Name"]: copy.deepcopy(task.state)
                }
                if was == "unknown":
                    self._state.reconnected(allocation, entry)
                entry.allocation(allocation)
            entry.node(self._state.nodes[client.node_id], changed=False)
        if freed:
            self._state.unblock()


def _task(clients: NomadClients, allocation: Json) -> Task:
    shared = allocation["AllocatedResources"]["Shared"]["Ports"] or [{"HostIP": "", "Label": ""}]
    definition = group_of(allocation)["Tasks"][0]
    return Task(
        allocation_id=allocation["ID"],
        job_id=allocation["JobID"],
        node=allocation["NodeName"],
        address=shared[0]["HostIP"],
        ports={port["Label"]: port["Value"] for port in shared if port["Label"]},
        meta=allocation["Job"]["Meta"] or {},
        config=definition["Config"] or {},
        kill_timeout=definition["KillTimeout"] / 1e9,
        clients=clients,
    )
