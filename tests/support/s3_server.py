"""A real server on loopback that speaks S3, in an environment of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.support.cache import cached
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

_PACKAGES = ("moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5")
_STOP_SECONDS = 10


def _install(directory: Path) -> None:
    python = directory / "bin" / "python"
    subprocess.run(["uv", "venv", "-q", "-p", sys.executable, directory], check=True)
    subprocess.run(["uv", "pip", "install", "-q", "-p", python, *_PACKAGES], check=True)


def command(host: str, port: int) -> list[str]:
    """Return what runs a server that forgets everything when it ends."""
    python = cached("s3-server", " ".join(_PACKAGES), _install) / "bin" / "python"
    return [str(python), "-m", "moto.server", "-H", host, "-p", str(port)]


class S3Server:
    """A server with one bucket, ``kept``."""

    bucket = "kept"

    def __init__(self, log: Path) -> None:
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command("127.0.0.1", self.port), stdout=log, stderr=log
            )
        eventually(self._answers, "an answer of the S3 server", seconds=60)

    def stop(self) -> None:
        """End it at once, with whatever is under way."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        try:
            made = httpx.put(f"{self.endpoint}/{self.bucket}", trust_env=False)
        except httpx.TransportError:
            return False
        return made.status_code == 200

    def where(self, prefix: str = "some/where") -> dict[str, Any]:
        """Say how to reach it, as ``Objects`` takes it."""
        options = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": "id",
            "secret_access_key": "secret",
        }
        return {"url": f"s3://{self.bucket}/{prefix}", "options": options}

    def kept(self) -> str:
        """Return its own list of what is in the bucket."""
        answer = httpx.get(f"{self.endpoint}/{self.bucket}?list-type=2", trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text
