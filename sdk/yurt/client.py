"""A small client of the wire API: sandboxes, and commands and terminals in them.

Speaks HTTP by httpx, with a transport that a test can replace. Knows nothing of the server's code.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

# A server holds a create until the sandbox runs; it answers within a minute at the latest.
CREATE_SECONDS = 90.0
CALL_SECONDS = 70.0
# How much longer than a command's own limit its answer may take.
MARGIN_SECONDS = 5.0


class YurtClientError(Exception):
    """Anything that this client raises on purpose."""


class UnreachableError(YurtClientError):
    """No answer came from the server."""


class ApiError(YurtClientError):
    """The server refused or failed; the message is the server's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox as the server described it when it was asked.

    ``fields`` is all of the description, by the names of the wire.
    """

    id: str
    name: str
    state: str
    toolbox_url: str
    fields: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> Self:
        """Read a description that the server sent."""
        return cls(
            id=fields["id"],
            name=fields.get("name") or fields["id"],
            state=fields.get("state") or "unknown",
            toolbox_url=f"{fields['toolboxProxyUrl']}/{fields['id']}",
            fields=fields,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it wrote to both of its outputs."""

    exit_code: int
    output: str


class Client:
    """Calls of one server with one key; use it as a context manager, or close it."""

    def __init__(
        self, api_url: str, api_key: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.headers = {"Authorization": f"Bearer {api_key}"}
        self._api_url = api_url.rstrip("/")
        self._http = httpx.Client(headers=self.headers, transport=transport, timeout=CALL_SECONDS)

    @classmethod
    def from_environment(cls) -> Self:
        """Take the address and the key from the variables that ``yurt env`` prints.

        Raises:
            YurtClientError: they are not set.
        """
        url = os.environ.get("DAYTONA_API_URL") or os.environ.get("DAYTONA_SERVER_URL")
        key = os.environ.get("DAYTONA_API_KEY")
        if not url or not key:
            message = (
                "DAYTONA_API_URL and DAYTONA_API_KEY are not set: "
                'run `eval "$(sudo ./yurt env)"` on the server, or set them by hand'
            )
            raise YurtClientError(message)
        return cls(url, key, _direct_to_loopback(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def create(self, **fields: object) -> Sandbox:
        """Create a sandbox; ``fields`` are the wire's (``snapshot``, ``env``, ``labels`` …)."""
        wanted = {name: value for name, value in fields.items() if value is not None}
        return Sandbox.from_wire(
            self._json("POST", self._api("sandbox"), json=wanted, timeout=CREATE_SECONDS)
        )

    def get(self, id_or_name: str) -> Sandbox:
        """Look a sandbox up by its id or name."""
        return Sandbox.from_wire(self._json("GET", self._api("sandbox", id_or_name)))

    def list(self) -> Iterator[Sandbox]:
        """Go through all sandboxes, page by page."""
        cursor: str | None = None
        while True:
            query = {"cursor": cursor} if cursor else {}
            page = self._json("GET", self._api("sandbox"), params=query)
            yield from (Sandbox.from_wire(item) for item in page["items"])
            cursor = page.get("nextCursor")
            if not cursor:
                return

    def delete(self, id_or_name: str) -> None:
        """Delete a sandbox with everything in it."""
        self._call("DELETE", self._api("sandbox", id_or_name))

    def create_organization(self, name: str) -> dict[str, Any]:
        """Make an organisation; ``apiKey.value`` of the answer is its first key."""
        made: dict[str, Any] = self._json("POST", self._api("organizations"), json={"name": name})
        return made

    def organizations(self) -> Sequence[dict[str, Any]]:
        """Return the organisations that this key knows of."""
        known: Sequence[dict[str, Any]] = self._json("GET", self._api("organizations"))
        return known

    def limit_organization(self, organization_id: str, limits: Mapping[str, int | None]) -> None:
        """Say how much an organisation may use in its region."""
        url = self._api("organizations", organization_id, "quota", "us")
        self._call("PATCH", url, json=dict(limits))

    def audit_log(self, limit: int) -> Sequence[dict[str, Any]]:
        """Return the newest lines of the audit log of this key's organisation."""
        mine = self._json("GET", self._api("users", "me"))["id"]
        url = self._api("audit", "organizations", mine)
        lines: Sequence[dict[str, Any]] = self._json("GET", url, params={"limit": limit})["items"]
        return lines

    def delete_organization(self, organization_id: str) -> None:
        """Remove an organisation that has no sandboxes; its keys end."""
        self._call("DELETE", self._api("organizations", organization_id))

    def create_volume(self, name: str) -> dict[str, Any]:
        """Make a volume; the fields are the wire's (``id``, ``name``, ``state`` …)."""
        made: dict[str, Any] = self._json("POST", self._api("volumes"), json={"name": name})
        return made

    def volumes(self) -> Sequence[dict[str, Any]]:
        """List the volumes."""
        listed: Sequence[dict[str, Any]] = self._json("GET", self._api("volumes"))
        return listed

    def delete_volume(self, id_or_name: str) -> None:
        """Delete a volume with everything in it; no sandbox may have it."""
        try:
            found = self._json("GET", self._api("volumes", "by-name", id_or_name))["id"]
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            found = id_or_name
        self._call("DELETE", self._api("volumes", found))

    def create_snapshot(self, **fields: object) -> dict[str, Any]:
        """Have a snapshot made; ``fields`` are the wire's (``imageName``, ``buildInfo`` …)."""
        wanted = {name: value for name, value in fields.items() if value is not None}
        made: dict[str, Any] = self._json("POST", self._api("snapshots"), json=wanted)
        return made

    def snapshot_sandbox(self, id_or_name: str, name: str) -> None:
        """Have a snapshot made of a sandbox's files."""
        self._call("POST", self._api("sandbox", id_or_name, "snapshot"), json={"name": name})

    def snapshot(self, id_or_name: str) -> dict[str, Any]:
        """Return a snapshot; the fields are the wire's (``id``, ``name``, ``state`` …)."""
        found: dict[str, Any] = self._json("GET", self._api("snapshots", id_or_name))
        return found

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """List the snapshots, page by page."""
        page, pages = 1, 1
        while page <= pages:
            listed = self._json("GET", self._api("snapshots"), params={"page": page, "limit": 100})
            yield from listed["items"]
            page, pages = page + 1, listed["totalPages"]

    def delete_snapshot(self, id_or_name: str) -> None:
        """Delete a snapshot; sandboxes made from it go on."""
        self._call("DELETE", self._api("snapshots", id_or_name))

    def build_log(self, id_or_name: str) -> Iterator[str]:
        """Yield what the build of a snapshot says until it is over."""
        url = f"{self._api('snapshots', id_or_name, 'build-logs')}?follow=true"
        try:
            with self._http.stream("GET", url, timeout=None) as response:
                if response.is_error:
                    response.read()
                    raise _error(response)
                yield from response.iter_text()
        except httpx.TransportError as exc:
            message = f"GET {url}: {str(exc) or type(exc).__name__}"
            raise UnreachableError(message) from exc

    def preview(self, sandbox: Sandbox, port: int) -> tuple[str, str]:
        """Get the URL of a port inside, and the token that opens it."""
        url = self._api("sandbox", sandbox.id, "ports", str(port), "preview-url")
        answer = self._json("GET", url)
        return answer["url"], answer["token"]

    def fetch_preview(self, url: str, token: str, via: str | None = None) -> httpx.Response:
        """Fetch a page of a preview, whatever its status is.

        ``via`` is the server's base URL, for systems that do not know the preview's host.
        """
        headers = {"X-Daytona-Preview-Token": token}
        if via is not None:
            parts = urlsplit(url)
            headers["Host"] = parts.netloc
            url = f"{via.rstrip('/')}{parts.path or '/'}"
        return self._send("GET", url, headers=headers)

    def execute(
        self,
        sandbox: Sandbox,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: int | None = None,
    ) -> Finished:
        """Run a shell command to its end; without a limit, for as long as it takes."""
        body = {"command": command, "cwd": cwd, "envs": env, "timeout": timeout_seconds}
        answer = self._json(
            "POST",
            f"{sandbox.toolbox_url}/process/execute",
            json={name: value for name, value in body.items() if value is not None},
            timeout=None if timeout_seconds is None else timeout_seconds + MARGIN_SECONDS,
        )
        return Finished(answer["exitCode"], answer["result"])

    def start_in_background(self, sandbox: Sandbox, command: str) -> None:
        """Start a shell command that goes on by itself."""
        session = f"cli-{uuid.uuid4().hex[:12]}"
        base = f"{sandbox.toolbox_url}/process/session"
        self._call("POST", base, json={"sessionId": session})
        self._call("POST", f"{base}/{session}/exec", json={"command": command, "runAsync": True})

    def terminal_url(self, sandbox: Sandbox, cols: int, rows: int) -> tuple[str, str]:
        """Name a new terminal: the WebSocket that opens it, and the base of its other calls."""
        terminal = f"cli-{uuid.uuid4().hex[:12]}"
        base = f"{sandbox.toolbox_url}/process/pty"
        query = urlencode({"id": terminal, "cols": cols, "rows": rows})
        socket = base.replace("http", "ws", 1)
        return f"{socket}/create-connect?{query}", f"{base}/{terminal}"

    def resize_terminal(self, terminal: str, cols: int, rows: int) -> None:
        """Tell a terminal its new size."""
        self._call("POST", f"{terminal}/resize", json={"cols": cols, "rows": rows})

    def _api(self, *parts: str) -> str:
        return "/".join([self._api_url, *(quote(part, safe="") for part in parts)])

    def _send(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, **arguments)
        except httpx.TimeoutException as exc:
            message = f"{method} {url}: no answer in time"
            raise UnreachableError(message) from exc
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            message = f"{method} {url}: {str(exc) or type(exc).__name__}"
            raise UnreachableError(message) from exc

    def _call(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        response = self._send(method, url, **arguments)
        if response.is_error:
            raise _error(response)
        return response

    def _json(self, method: str, url: str, **arguments: Any) -> Any:
        response = self._call(method, url, **arguments)
        try:
            return response.json()
        except ValueError as exc:
            message = f"{method} {url} was not answered with JSON: is this a Yurt server?"
            raise YurtClientError(message) from exc


def _direct_to_loopback(url: str) -> httpx.BaseTransport | None:
    """Pass by the environment's proxies on the way to this very machine."""
    host = urlsplit(url).hostname or ""
    here = host == "localhost" or host.endswith(".localhost") or host in {"127.0.0.1", "::1"}
    return httpx.HTTPTransport() if here else None


def _error(response: httpx.Response) -> ApiError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    message = body.get("message") or response.text.strip()[:500] or response.reason_phrase
    return ApiError(response.status_code, str(body.get("code", "")), str(message))
