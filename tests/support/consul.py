"""A real Consul server of the tests' own: one process, its data in a directory, killed and revived.

``binary`` skips the test where there is no Consul; ``./yurt test`` unpacks one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.waiting import eventually
from traefik.consul import ConsulSettings
from traefik.process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def binary() -> str:
    found = shutil.which("consul")
    if found is None:
        pytest.skip("no consul on PATH")
    return found


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and one pair of it that serves and is shown by clients."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def at(cls, directory: Path, names: Sequence[str] = ("localhost",)) -> Authority:
        """Make one that certifies these names and 127.0.0.1."""
        ca, ca_key = directory / "ca.pem", directory / "ca.key"
        cert, key, request = (directory / name for name in ("cert.pem", "cert.key", "request"))
        extensions = directory / "extensions"
        listed = ",".join(f"DNS:{name}" for name in names)
        extensions.write_text(f"subjectAltName={listed},IP:127.0.0.1")
        make = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        _openssl(f"{make} -x509 -days 9 -subj /CN=authority -keyout {ca_key} -out {ca}")
        _openssl(f"{make} -subj /CN=localhost -keyout {key} -out {request}")
        sign = f"x509 -req -days 9 -CAcreateserial -CA {ca} -CAkey {ca_key}"
        _openssl(f"{sign} -extfile {extensions} -in {request} -out {cert}")
        return cls(ca, cert, key)


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)


@dataclass
class Consul:
    """One server. It keeps its ports and its data when it is killed and started again."""

    directory: Path
    extra: Mapping[str, Any] = field(default_factory=dict)
    authority: Authority | None = None
    token: str = ""

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.port, *others = free_ports(3)
        scheme = "https" if self.authority else "http"
        other = "http" if self.authority else "https"
        ports = {"dns": -1, "grpc": -1, "serf_wan": -1, other: -1, scheme: self.port}
        ports |= dict(zip(("server", "serf_lan"), others, strict=True))
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        configuration = {
            "server": True,
            "node_name": "machine",
            "bootstrap_expect": 1,
            "bind_addr": "127.0.0.1",
            "data_dir": str(self.directory / "data"),
            "ports": ports,
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "log_level": "err",
            **self.extra,
        }
        if self.authority:
            configuration |= {
                "ca_file": str(self.authority.ca),
                "cert_file": str(self.authority.cert),
                "key_file": str(self.authority.key),
                "verify_incoming": True,
            }
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "consul.json").write_text(json.dumps(configuration))

    @property
    def settings(self) -> ConsulSettings:
        if self.authority:
            ca, cert, key = self.authority.ca, self.authority.cert, self.authority.key
            return ConsulSettings(self.url, self.token, ca=ca, cert=cert, key=key)
        return ConsulSettings(self.url, self.token)

    def start(self, *, alone: bool = True) -> None:
        """Start it; ``alone`` it becomes the leader, else there is none."""
        command = [binary(), "agent", f"-config-file={self.directory / 'consul.json'}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={"PATH": os.defpath, "HOME": "/"}
            )
        eventually(self.leads if alone else self.answers, "Consul to be up", seconds=30)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.call("GET", "/v1/status/leader").status_code < 500
        return False

    def leads(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            # A question that is forbidden was asked of a leader, too.
            return self.call("GET", "/v1/catalog/services?consistent").status_code < 500
        return False

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def call(self, method: str, path: str, body: object = None, token: str = "") -> httpx.Response:
        verify: Any = True
        if self.authority:
            verify = ssl.create_default_context(cafile=str(self.authority.ca))
            verify.load_cert_chain(self.authority.cert, self.authority.key)
        with httpx.Client(trust_env=False, verify=verify, timeout=10) as client:
            headers = {"X-Consul-Token": token or self.token} if token or self.token else {}
            return client.request(method, self.url + path, json=body, headers=headers)

    def register(self, node: str, instance: Mapping[str, Any]) -> None:
        """Write an instance as somebody else would."""
        body = {"Node": node, "Address": "127.0.0.1", "Service": instance}
        assert self.call("PUT", "/v1/catalog/register", body).text.strip() == "true"

    def instances(self, service: str = "yurt-sandbox") -> dict[tuple[str, str], dict[str, Any]]:
        """List the instances of a service by node and id."""
        listed = self.call("GET", f"/v1/catalog/service/{service}").json()
        return {(one["Node"], one["ServiceID"]): one for one in listed}

    def bootstrap(self) -> str:
        """Make the first token, which may do everything."""
        answer = self.call("PUT", "/v1/acl/bootstrap")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["SecretID"])

    def grant(self, rules: str, name: str) -> str:
        """Make a token that may do what ``rules`` say; to be called with the first token."""
        name = f"{name}-{secrets.token_hex(4)}"
        policy = self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        assert policy.status_code == 200, policy.text
        token = self.call("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]})
        return str(token.json()["SecretID"])


@contextlib.contextmanager
def running(consul: Consul, *, alone: bool = True) -> Iterator[Consul]:
    """Run a server for the time of a block."""
    binary()
    try:
        consul.start(alone=alone)
        yield consul
    finally:
        consul.kill()


def of_its_own(consul: Consul) -> ConsulSettings:
    """Give names that no other test uses, so that a server serves many of them."""
    name = secrets.token_hex(4)
    return replace(
        consul.settings, node=f"routes-{name}", service=f"sandbox-{name}", tag=f"tag-{name}"
    )
