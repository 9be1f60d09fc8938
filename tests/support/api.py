"""The wire API by plain HTTP, as tests need it: no SDK between the test and the answer."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.remote import Server

START_SECONDS = 60


class Api:
    """A client of one server, as the key says."""

    def __init__(self, server: Server, key: str | None = None) -> None:
        self.base_url = server.base_url
        self.slowness = server.slowness
        self.http = httpx.Client(
            headers={"Authorization": f"Bearer {key or server.key}"},
            timeout=httpx.Timeout((START_SECONDS + 10) * server.slowness),
            trust_env=False,
        )

    def close(self) -> None:
        self.http.close()

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request below ``/api`` and return its answer, whatever its status."""
        return self.http.request(method, f"{self.base_url}/api{path}", **more)

    def answers(self) -> bool:
        """Whether a new request succeeds."""
        try:
            return self.call("GET", "/sandbox", timeout=2 * self.slowness).status_code == 200
        except httpx.TransportError:
            return False

    def create(self, **body: Any) -> Sandbox:
        """Create a sandbox and wait until it is started."""
        answer = self.call("POST", "/sandbox", json=body)
        assert answer.status_code == 200, answer.text
        sandbox = Sandbox(self, answer.json()["id"])
        if answer.json()["state"] == "started":
            return sandbox  # the usual case: create is held until then
        sandbox.wait_for("started", START_SECONDS)
        return sandbox

    @contextlib.contextmanager
    def sandbox(self, **body: Any) -> Iterator[Sandbox]:
        """A started sandbox that is deleted afterwards."""
        sandbox = self.create(**body)
        try:
            yield sandbox
        finally:
            sandbox.delete()


@dataclass(frozen=True, eq=False)
class Sandbox:
    """One sandbox, by its id."""

    api: Api
    id: str

    def record(self) -> dict[str, Any]:
        answer = self.api.call("GET", f"/sandbox/{self.id}")
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def wait_for(self, state: str, seconds: float = 15) -> dict[str, Any]:
        """Wait for a state and return the record; an error state ends the wait."""

        def reached() -> dict[str, Any] | None:
            record = self.record()
            if record["state"] in {"error", "build_failed"} and state != "error":
                raise AssertionError(f"{self.id}: {record['errorReason']}")
            return record if record["state"] == state else None

        record = eventually(
            reached, f"state {state} of {self.id}", seconds=seconds * self.api.slowness
        )
        assert record is not None
        return record

    def act(self, verb: str) -> httpx.Response:
        """POST a life-cycle verb such as ``stop``."""
        return self.api.call("POST", f"/sandbox/{self.id}/{verb}")

    def stop(self) -> None:
        answer = self.act("stop")
        assert answer.status_code == 200, answer.text
        self.wait_for("stopped", 30)

    def start(self) -> None:
        answer = self.act("start")
        assert answer.status_code == 200, answer.text
        self.wait_for("started", START_SECONDS)

    def delete(self) -> None:
        answer = self.api.call("DELETE", f"/sandbox/{self.id}")
        assert answer.status_code in {200, 404}, answer.text

    def toolbox(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request to the agent inside, through the gate."""
        url = f"{self.api.base_url}/toolbox/{self.id}{path}"
        return self.api.http.request(method, url, **more)

    def execute(self, command: str, *, seconds: int = 60, **more: Any) -> tuple[int, str]:
        """Run a shell command inside; return its exit code and output."""
        body = {"command": command, "timeout": seconds * self.api.slowness, **more}
        allowed = (seconds + 10) * self.api.slowness
        answer = self.toolbox("POST", "/process/execute", json=body, timeout=allowed)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        return said["exitCode"], said["result"]

    def check(self, command: str, *, seconds: int = 60) -> str:
        """Run a shell command that must succeed; return its output."""
        code, text = self.execute(command, seconds=seconds)
        assert code == 0, f"{command}: exit code {code}\n{text}"
        return text

    def root(self, command: str, *, seconds: int = 60) -> str:
        """Run a shell command as root inside; it must succeed."""
        return self.check(f"sudo -n sh -c {shlex.quote(command)}", seconds=seconds)

    def upload(self, content: bytes, path: str) -> None:
        files = {"file": ("file", content)}
        answer = self.toolbox("POST", f"/files/upload?path={quote(path)}", files=files)
        assert answer.status_code == 200, answer.text

    def download(self, path: str) -> bytes:
        answer = self.toolbox("GET", f"/files/download?path={quote(path)}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def background(self, command: str) -> tuple[str, str]:
        """Start a command in a session of its own; return the session and the command's id."""
        session = f"session-{secrets.token_hex(4)}"
        answer = self.toolbox("POST", "/process/session", json={"sessionId": session})
        assert answer.status_code == 201, answer.text
        body = {"command": command, "runAsync": True}
        answer = self.toolbox("POST", f"/process/session/{session}/exec", json=body)
        assert answer.status_code == 202, answer.text
        return session, answer.json()["cmdId"]

    def logs(self, session: str, command: str) -> str:
        """Read what a session's command printed until now, without stream marks."""
        path = f"/process/session/{session}/command/{command}/logs"
        answer = self.toolbox("GET", path, headers={"X-Daytona-SDK-Version": "0.226.1"})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        return f"{said['stdout']}{said['stderr']}"

    def preview(self, port: int) -> tuple[str, dict[str, str]]:
        """Return a preview's URL and the header that opens it."""
        answer = self.api.call("GET", f"/sandbox/{self.id}/ports/{port}/preview-url")
        assert answer.status_code == 200, answer.text
        said = answer.json()
        return said["url"], {"X-Daytona-Preview-Token": said["token"]}

    def reason(self, seconds: float = 10) -> str:
        """Wait until the record says why something went wrong."""
        allowed = seconds * self.api.slowness
        return str(
            eventually(lambda: self.record().get("errorReason"), "a reason", seconds=allowed)
        )
