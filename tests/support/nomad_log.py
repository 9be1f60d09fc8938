"""What the Nomad double does later, and what it has done: a timer, and the entries of its log."""

from __future__ import annotations

import copy
import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.support import nomad_forms as forms

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]


class Clockwork:
    """One thread that does what is due; the first failure is kept for whoever closes it."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._wake = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._count), action))
            self._wake.notify_all()

    def close(self) -> None:
        with self._wake:
            self._open = False
            self._wake.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while (action := self._next()) is not None:
            try:
                action()
            except Exception as failure:  # noqa: BLE001 -- raised again where the double is closed
                self.failure = self.failure or failure

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while self._open:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._wake.wait(left)
        return None


class Entry:
    """One change of the state: everything in it has the same index."""

    def __init__(self, index: int, tables: dict[str, int], kind: str) -> None:
        self.index, self._tables, self._kind = index, tables, kind
        self._seen: list[tuple[str, str, list[str] | None, Json, Json]] = []
        self.job_keys: set[tuple[str, str]] = set()

    def job(self, job: Json, *, is_deleted: bool = False) -> None:
        job["ModifyIndex"] = self.index
        self._tables["jobs"] = self.index
        more = {"Deleted": True} if is_deleted else {}
        self._see("Job", job["ID"], None, {"Job": job} | more)

    def evaluation(self, evaluation: Json) -> None:
        evaluation |= {"ModifyIndex": self.index, "ModifyTime": forms.now_ns()}
        self._tables["evals"] = self.index
        self.job_keys.add((evaluation["Namespace"], evaluation["JobID"]))
        keys = [evaluation["JobID"], ""]
        self._see("Evaluation", evaluation["ID"], keys, {"Evaluation": evaluation})

    def allocation(self, allocation: Json) -> None:
        allocation |= {"ModifyIndex": self.index, "ModifyTime": forms.now_ns()}
        self._tables |= {"allocs": self.index, "jobs": self.index}  # the jobs' summaries
        self.job_keys.add((allocation["Namespace"], allocation["JobID"]))
        whole = forms.whole_allocation(allocation)
        del whole["Job"]
        self._see("Allocation", allocation["ID"], [allocation["JobID"], ""], {"Allocation": whole})

    def node(self, node: Json, *, changed: bool = True) -> None:
        self._tables["nodes"] = self.index  # also where only what it runs has changed
        if changed:
            node["ModifyIndex"] = self.index
        self._see("Node", node["ID"], None, {"Node": node})

    def _see(self, topic: str, key: str, filters: list[str] | None, payload: Json) -> None:
        head = {"Topic": topic, "Type": self._kind, "Index": self.index}
        self._seen.append((topic, key, filters, payload, head))

    def events(self) -> list[Json]:
        return [
            head
            | {
                "Key": key,
                "FilterKeys": filters,
                "Namespace": "" if topic == "Node" else "default",
                "Payload": copy.deepcopy(payload),
            }
            for topic, key, filters, payload, head in self._seen
        ]
