"""Nomad's HTTP API as the scheduler uses it: python-nomad in worker threads, httpx where one waits.

Turns whatever goes wrong into the errors of control, with words that say what to change. A read is
by the leader, and whole, or it raises. Does not know what a sandbox is.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import requests
from nomad import api  # type: ignore[import-untyped]
from nomad.api import exceptions  # type: ignore[import-untyped]
from tenacity import (
    retry,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from control.errors import ConflictError, NoCapacityError, UnavailableError
from jobs.tls import client_context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from typing import Self

    from jobs.nomad import NomadSettings

Json = dict[str, Any]
T = TypeVar("T")

_CONNECT_SECONDS = 3.0
_READ_SECONDS = 10.0
# A query may wait a sixteenth longer than it was asked to (Nomad's documentation, "Blocking
# Queries"), and then the answer must come.
_WAIT_SECONDS = 10.0
# Nomad gives a sign on a stream every 30 s, and the first at once to whoever may read it.
_FIRST_SIGN_SECONDS = 10.0
_SILENCE_SECONDS = 75.0
_THREADS = 8
_CONNECTIONS = 64

_ENFORCED = "Enforcing job modify index"
_NO_REGION = "No path to region"
_ABSENT = ("nonexistent node pool", "nonexistent namespace")


class PassingError(UnavailableError):
    """Refused for a moment: the same may be asked again."""


_once_more = retry(
    retry=retry_if_exception_type(PassingError),
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(multiplier=0.1, max=1),
    reraise=True,
)


class Wire:
    """One Nomad, to be closed when done (``async with``)."""

    def __init__(self, settings: NomadSettings) -> None:
        self.settings = settings
        self._url = settings.url.rstrip("/")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="nomad")
        self._session = requests.Session()
        # Nothing but the settings says whom to trust and whom to ask.
        self._session.trust_env = False
        self._session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=_THREADS))
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_THREADS))
        self._session.hooks["response"].append(lambda answer, **_: self._require_leader(answer))
        cert = (str(settings.cert), str(settings.key)) if settings.cert else ()
        # The parts and not ``nomad.Nomad``, which takes what is not set from the environment.
        same = {
            "address": self._url,
            "namespace": settings.namespace,
            "token": settings.token or None,
            "timeout": (_CONNECT_SECONDS, _READ_SECONDS),
            "verify": str(settings.ca) if settings.ca else True,
            "cert": cert,
            "region": settings.region or None,
            "session": self._session,
        }
        self._jobs, self._job = api.Jobs(**same), api.Job(**same)
        self._allocations, self._allocation = api.Allocations(**same), api.Allocation(**same)
        self._nodes, self._node = api.Nodes(**same), api.Node(**same)
        self._http = self._waiting_client()

    def _waiting_client(self) -> httpx.AsyncClient:
        settings = self.settings
        params = {"namespace": settings.namespace}
        if settings.region:
            params["region"] = settings.region
        return httpx.AsyncClient(
            base_url=f"{self._url}/v1",
            verify=client_context("NOMAD", settings.ca, settings.cert, settings.key)
            if self._url.startswith("https:")
            else False,
            headers={"X-Nomad-Token": settings.token} if settings.token else {},
            params=params,
            timeout=httpx.Timeout(_WAIT_SECONDS * 17 / 16 + 5, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._session.close()

    # -- jobs --------------------------------------------------------------------------------

    async def register(self, job: Mapping[str, Any]) -> Json:
        """Register a job that must not exist, and return Nomad's answer (``EvalID``).

        Raises:
            ConflictError: it exists.
            NoCapacityError: there is no such pool, namespace or region.
        """
        body = {"Job": dict(job), "EnforceIndex": True, "JobModifyIndex": 0}
        told: Json = await self._call(lambda: self._jobs.register_job(body))
        return told

    @_once_more
    async def deregister(self, job_id: str, *, purge: bool) -> str:
        """Stop a job, or forget it; return its evaluation's id, empty where there is none."""
        told = await self._call(lambda: self._job.deregister_job(job_id, purge=purge))
        return str(told["EvalID"])

    @_once_more
    async def job(self, job_id: str) -> Json | None:
        """Read a job."""
        return await self._found(lambda: self._job.get_job(job_id))

    @_once_more
    async def jobs(self, prefix: str) -> list[Json]:
        """List jobs with their meta."""
        listed: list[Json] = await self._call(lambda: self._jobs.get_jobs(prefix, meta=True))
        return listed

    @_once_more
    async def evaluations(self, job_id: str) -> list[Json]:
        """List what was evaluated for a job."""
        listed: list[Json] = await self._call(lambda: self._job.get_evaluations(job_id))
        return listed

    @_once_more
    async def job_allocations(self, job_id: str) -> list[Json]:
        """List a job's allocations, without their ports."""
        listed: list[Json] = await self._call(lambda: self._job.get_allocations(job_id))
        return listed

    @_once_more
    async def allocation(self, allocation_id: str) -> Json | None:
        """Read an allocation with its job and its ports."""
        return await self._found(lambda: self._allocation.get_allocation(allocation_id))

    @_once_more
    async def allocations(self, expression: str | None = None) -> list[Json]:
        """List allocations with their ports."""
        listed: list[Json] = await self._call(
            lambda: self._allocations.get_allocations(filter_=expression, resources=True)
        )
        return listed

    # -- nodes -------------------------------------------------------------------------------

    @_once_more
    async def nodes(self) -> list[Json]:
        """List every node."""
        listed: list[Json] = await self._call(lambda: self._nodes.get_nodes(resources=True))
        return listed

    @_once_more
    async def set_eligible(self, node_id: str, eligible: bool) -> None:
        """Say whether anything more may be placed on a node."""
        await self._call(lambda: self._node.eligible_node(node_id, eligible=eligible))

    # -- what waits --------------------------------------------------------------------------

    @_once_more
    async def changed(self, path: str, index: int = 0) -> tuple[int, Any]:
        """Read once something is newer than ``index``, or after a while; return its index."""
        params = {"index": str(index), "wait": f"{_WAIT_SECONDS:.0f}s"} if index else {}
        try:
            answer = await self._http.get(path, params=params)
            self._require_leader(answer)
            if answer.status_code != 200:
                raise self._refusal(answer.status_code, answer.text)
            # An index may go back when servers were restored; then one begins anew.
            return int(answer.headers["X-Nomad-Index"]), answer.json()
        except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
            raise self._silence(error) from error

    async def file(self, allocation_id: str, path: str) -> str:
        """Read a file below an allocation's directory; Nomad's words where there is none."""
        try:
            answer = await self._http.get(f"/client/fs/cat/{allocation_id}", params={"path": path})
        except (httpx.HTTPError, OSError) as error:
            raise self._silence(error) from error
        if answer.status_code != 200:
            raise self._refusal(answer.status_code, answer.text)
        return answer.text

    async def events(self, topics: list[str], index: int) -> AsyncGenerator[tuple[int, list[Json]]]:
        """Yield events with their index, from an index on or later.

        Raises:
            UnavailableError: the stream was cut, or says nothing any more.
        """
        params = {"topic": topics, "index": [str(index)]}
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        try:
            async with self._http.stream(
                "GET", "/event/stream", params=params, timeout=timeout
            ) as answer:
                if answer.status_code != 200:
                    text = (await answer.aread()).decode(errors="replace")
                    raise self._refusal(answer.status_code, text)
                lines = answer.aiter_lines()
                await self._first_sign(lines)
                async for line in lines:
                    entry = json.loads(line or "{}")
                    if "Index" in entry:
                        yield entry["Index"], entry["Events"] or []
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise self._silence(error) from error
        raise PassingError(f"Nomad at {self._url} ended its stream of events")

    async def _first_sign(self, lines: AsyncIterator[str]) -> None:
        """Wait for what Nomad sends at once, but not to a token that may read nothing."""
        try:
            async with asyncio.timeout(_FIRST_SIGN_SECONDS):
                await anext(lines)
        except StopAsyncIteration:
            raise PassingError(f"Nomad at {self._url} ended its stream of events") from None
        except TimeoutError:
            raise UnavailableError(
                f"Nomad at {self._url} shows no events to this token: its policy (YURT_NOMAD_TOKEN)"
                " needs read-job in the namespace, and node read"
            ) from None

    # -- errors ------------------------------------------------------------------------------

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except exceptions.BaseNomadException as error:
            answer = error.nomad_resp
            if isinstance(answer, requests.Response):
                raise self._refusal(answer.status_code, answer.text) from error
            raise self._silence(answer) from error
        except (requests.RequestException, OSError, ValueError) as error:
            # Also an answer that is no JSON, or a certificate's file that is not there.
            raise self._silence(error) from error

    async def _found(self, call: Callable[[], Json]) -> Json | None:
        def read() -> Json | None:
            try:
                return call()
            except exceptions.URLNotFoundNomadException:
                return None

        return await self._call(read)

    def _require_leader(self, answer: requests.Response | httpx.Response) -> None:
        if answer.headers.get("X-Nomad-KnownLeader") == "false":
            raise PassingError(f"Nomad at {self._url} knows no leader: what it says may be old")

    def _refusal(self, status: int, text: str) -> UnavailableError | ConflictError:
        said = " ".join(text.split())[:300]
        settings = self.settings
        if said.startswith(_ENFORCED):
            return ConflictError(said)
        if _NO_REGION in said:
            return NoCapacityError(
                f"no room: Nomad knows no region {settings.region!r}: set YURT_NOMAD_REGION"
            )
        if any(words in said for words in _ABSENT):
            return NoCapacityError(
                f"no room: Nomad has no node pool {settings.node_pool!r} (YURT_NODE_POOL) or no"
                f" namespace {settings.namespace!r} (YURT_NOMAD_NAMESPACE): {said}"
            )
        if status in {401, 403}:
            return UnavailableError(
                f"Nomad at {self._url} refuses the token (YURT_NOMAD_TOKEN): {said}; its policy"
                " needs list-jobs, read-job, submit-job and read-fs in the namespace, node write,"
                " and host_volume yurt write"
            )
        if status == 429 or status >= 500:
            return PassingError(f"Nomad at {self._url} cannot answer now ({status}): {said}")
        return UnavailableError(
            f"Nomad at {self._url} refuses ({status}): {said}; is it older than 2.0?"
        )

    def _silence(self, error: Exception) -> UnavailableError:
        words = f"Nomad at {self._url} does not answer: {str(error) or type(error).__name__}"
        if "CERTIFICATE" in words.upper():
            return UnavailableError(
                f"{words}; check YURT_NOMAD_CA, and YURT_NOMAD_CERT and YURT_NOMAD_KEY"
            )
        if isinstance(error, requests.Timeout | httpx.TimeoutException):
            return UnavailableError(words)
        # A client's certificate is refused without a word, after the handshake.
        shown = ", YURT_NOMAD_CERT and YURT_NOMAD_KEY" if self._url.startswith("https:") else ""
        return PassingError(f"{words}; check YURT_NOMAD_URL{shown}")
