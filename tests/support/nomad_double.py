"""A Nomad of our own to test against: its HTTP API on a real socket, with tasks that only play.

    with NomadDouble() as nomad:
        nomad.add_node("node-1", 1024, ports=(20000, 20010))
        ...                                   # talk to nomad.url
        nomad.finish("yurt-a", signal=9)      # a task ends
        nomad.lose_node("node-1")             # its allocations are "unknown" before long
        nomad.faults.status = 500             # and everything else that can go wrong

Numbers and texts are those of Nomad 2.0.5; ``test_nomad_double.py`` and ``test_nomad_reads.py``
hold it to them. Where Nomad is free to choose, the double takes what is worst for its caller: a
freed port is given out again at once, and a status arrives as late as it may.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Self

from tests.support import nomad_forms as forms
from tests.support.nomad_api import Faults, NomadApi
from tests.support.nomad_clients import Client, NomadClients, Task
from tests.support.nomad_placement import Spec
from tests.support.nomad_server import Server
from tests.support.nomad_state import NomadState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Faults", "NomadDouble", "Task"]


class NomadDouble:
    """Servers and clients in one; a context manager that fails if anything in it has failed.

    ``token`` is asked of every request if set. ``status_delay`` is how late a client says that a
    task runs, and five times what it takes to say that one has ended.
    """

    def __init__(
        self,
        *,
        token: str = "",
        region: str = "global",
        status_delay: float = 1.0,
        heartbeat_seconds: float = 30.0,
        event_buffer: int = 100,
    ) -> None:
        self.faults = Faults()
        self.status_delay = status_delay
        self._state = NomadState(event_buffer, lambda: self.faults.never_places)
        self._clients = NomadClients(self._state, status_delay)
        self._clients.driver_error = lambda: self.faults.driver_error
        self._api = NomadApi(self._state, self._clients, self.faults, token, region)
        self._server = Server(self._api, heartbeat_seconds)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._api.is_open = False
        with self._state.changed:
            self._state.changed.notify_all()
        self._server.close()
        self._state.clockwork.close()
        if self._state.clockwork.failure is not None:
            raise self._state.clockwork.failure

    # -- nodes -------------------------------------------------------------------------------

    def add_node(
        self,
        name: str,
        memory_mib: int = 4096,
        *,
        ports: tuple[int, int] = (20000, 32000),
        addresses: tuple[str, ...] = ("127.0.0.1",),
        volumes: tuple[str, ...] = ("yurt",),
        meta: Mapping[str, str] | None = None,
        node_class: str = "",
        pool: str = "default",
        datacenter: str = "dc1",
        cpu_mhz: int = 100_000,
    ) -> str:
        """Add a node that is ready, and return its id."""
        node_id = str(uuid.uuid4())
        spec = Spec(
            name,
            memory_mib,
            cpu_mhz,
            ports,
            addresses,
            volumes,
            dict(meta or {}),
            node_class,
            pool,
            datacenter,
        )
        with self._state.write("NodeRegistration") as entry:
            self._api.pools.add(pool)
            self._clients.by_node[node_id] = Client(node_id)
            self._state.specs[node_id] = spec
            node = forms.node(spec, node_id, entry.index)
            self._state.nodes[node_id] = node
            entry.node(node)
        self._state.unblock()
        return node_id

    def lose_node(self, name: str) -> None:
        """Cut a node off: its tasks run on, and the servers know no more of them."""
        client = self._client(name)
        client.is_reachable = False
        self._state.miss(client.node_id)

    def return_node(self, name: str) -> None:
        """Let a node be heard again; it tells what became of its tasks, and is then ready."""
        client = self._client(name)
        client.is_reachable = True
        self._state.set_node(client.node_id, Status="initializing")
        self._clients.wake(client.node_id)
        self._state.clockwork.later(0.4 * self.status_delay, lambda: self._settle(client))

    def _settle(self, client: Client) -> None:
        client.outbox |= client.tasks.keys()
        self._clients.flush(client)
        self._state.set_node(client.node_id, Status="ready")
        self._state.unblock()

    def _client(self, name: str) -> Client:
        with self._state.changed:
            for node_id, node in self._state.nodes.items():
                if node["Name"] == name:
                    return self._clients.by_node[node_id]
        raise KeyError(name)

    # -- tasks -------------------------------------------------------------------------------

    def on_start(self, call: Callable[[Task], None]) -> None:
        """Call this with each task that has started; it may end it, or give it files."""
        self._clients.on_start = call

    def on_stop(self, call: Callable[[Task], None]) -> None:
        """Call this when a task is asked to end; it is killed in time if this does not end it."""
        self._clients.on_stop = call

    def tasks(self, job_id: str) -> list[Task]:
        """List a job's tasks, running and ended, oldest first; Nomad may know less of them."""
        return self._clients.tasks(job_id)

    def finish(self, job_id: str, exit_code: int = 0, signal: int = 0) -> None:
        """End the running task of a job.

        Raises:
            LookupError: none is running.
        """
        running = [task for task in self.tasks(job_id) if task.is_running]
        if not running:
            raise LookupError(f"no task of {job_id} is running")
        running[-1].finish(exit_code, signal)
