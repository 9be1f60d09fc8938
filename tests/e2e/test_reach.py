"""Clients that are elsewhere: by a tunnel, by a name and a certificate, and behind a proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.conftest import ARGUMENTS, CHROMIUM
from tests.support.instance import REPOSITORY, Instance, free_port
from tests.support.names import wildcard_names
from tests.support.netns import namespace
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

    from tests.support.api import Sandbox
    from tests.support.netns import Namespace

pytestmark = pytest.mark.e2e

HERE, THERE = "10.213.77.1", "10.213.77.2"
DOMAIN = "box.test"


@pytest.fixture
def elsewhere() -> Iterator[Namespace]:
    """A machine beside this one, or a container on it: with a network and names of its own."""
    with namespace(f"{HERE}/30", [f"{THERE}/30"]) as made, wildcard_names(made, DOMAIN, HERE):
        yield made


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    pair = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += f" -subj /CN={DOMAIN} -addext subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}"
    files = ["-out", str(pair[0]), "-keyout", str(pair[1])]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return pair


def reach(made: Namespace, variables: Mapping[str, str], **more: str) -> list[str]:
    """Use the server from a namespace, with these variables; return the URLs that were given."""
    environment = {"PATH": os.environ["PATH"], **variables, **more}
    command = made.command(str(REPOSITORY / ".venv/bin/python"), "-m", "tests.e2e.reaching")
    ran = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def expect_all_below(urls: list[str], scheme: str, port: int | None, domain: str) -> None:
    """Check that every URL is one that this client can use."""
    assert len(urls) == 6
    for url in urls:
        parts = urlsplit(url.replace("{{PORT}}", "1").replace("{{sandboxId}}", "x"))
        assert (parts.scheme, parts.port) == (scheme, port)
        assert parts.hostname is not None
        assert parts.hostname == domain or parts.hostname.endswith(f".{domain}")


def test_a_laptop_reaches_the_server_by_ssh(
    embedded: Instance, elsewhere: Namespace, tmp_path: Path
) -> None:
    with an_sshd(tmp_path) as (port, key):
        options = ["-oStrictHostKeyChecking=no", f"-oUserKnownHostsFile={tmp_path}/known"]
        options += ["-oExitOnForwardFailure=yes", f"-i{key}", f"-p{port}"]
        tunnel = f"{embedded.port}:localhost:{embedded.port}"
        command = elsewhere.command("ssh", "-N", "-L", tunnel, *options, f"root@{HERE}")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as ssh:
            try:
                look = elsewhere.command("curl", "-sf", f"{embedded.api_url}/health")
                eventually(
                    lambda: subprocess.run(look, capture_output=True, check=False).returncode == 0,
                    "the tunnel",
                )
                urls = reach(elsewhere, embedded.variables)
            finally:
                ssh.kill()
    expect_all_below(urls, "http", embedded.port, "localhost")


@contextlib.contextmanager
def an_sshd(directory: Path) -> Iterator[tuple[int, Path]]:
    """Run an ssh server at HERE that one key opens; yield its port and that key."""
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(make, check=True)
    shutil.copy(directory / "user.pub", directory / "authorized")
    port, configuration = free_port(), directory / "sshd_config"
    configuration.write_text(
        f"ListenAddress {HERE}:{port}\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nAllowTcpForwarding local\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(configuration)]
    said = directory / "sshd.log"
    with said.open("w") as log, subprocess.Popen(command, stderr=log) as sshd:
        try:
            eventually(lambda: "Server listening" in said.read_text(), "the ssh server")
            yield port, directory / "user"
        finally:
            sshd.kill()


def test_a_container_reaches_the_server_by_name_and_certificate(
    elsewhere: Namespace, certificate: tuple[Path, Path]
) -> None:
    with Instance.temporary(
        YURT_LISTEN=f"127.0.0.1,{HERE}",
        YURT_DOMAIN=DOMAIN,
        YURT_TLS_CERT=str(certificate[0]),
        YURT_TLS_KEY=str(certificate[1]),
    ) as instance:
        instance.up()
        urls = reach(elsewhere, instance.variables, SSL_CERT_FILE=str(certificate[0]))
        expect_all_below(urls, "https", instance.port, DOMAIN)
        for host, status in ((DOMAIN, 200), ("evil.example", 421), (f"x.{DOMAIN}", 421)):
            asked = ["curl", "-sko", "/dev/null", "-w", "%{http_code}", "-H", f"Host: {host}"]
            url = f"https://{HERE}:{instance.port}/api/health"
            said = subprocess.run(
                elsewhere.command(*asked, url), capture_output=True, text=True, check=True
            )
            assert said.stdout == str(status), host


def test_behind_a_proxy_every_url_is_the_proxy_s(
    elsewhere: Namespace, certificate: tuple[Path, Path]
) -> None:
    port = free_port()
    with (
        Instance.temporary(YURT_URL=f"https://api.{DOMAIN}:{port}", YURT_DOMAIN=DOMAIN) as instance,
        a_proxy(port, certificate, instance.port),
    ):
        instance.up()
        assert instance.api_url == f"https://api.{DOMAIN}:{port}/api"
        urls = reach(elsewhere, instance.variables, SSL_CERT_FILE=str(certificate[0]))
        expect_all_below(urls, "https", port, DOMAIN)


@contextlib.contextmanager
def a_proxy(port: int, certificate: tuple[Path, Path], target: int) -> Iterator[None]:
    """End TLS at HERE and pass everything on to a port of loopback, as it comes."""
    import socket as sockets

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listener = sockets.create_server((HERE, port))

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
                visitor = context.wrap_socket(raw, server_side=True)
                server = sockets.create_connection(("127.0.0.1", target))
            except ssl.SSLError:
                continue
            except OSError:
                return
            for pair in ((visitor, server), (server, visitor)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(sockets.SHUT_RDWR)
        listener.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError), source, sink:
        while data := source.recv(65536):
            sink.sendall(data)


def test_a_page_that_takes_our_address_for_its_name_gets_nothing(
    embedded: Instance, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A rebound name: the browser believes that this server is the page's own."""
    rebound = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    base = f"http://evil.example:{embedded.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path, executable_path=CHROMIUM, args=[*ARGUMENTS, rebound], headless=False
        )
        page = browser.new_page()
        answer = page.goto(f"{base}/api/health")
        assert answer is not None
        assert answer.status == 421
        fetched = "async ([url, headers]) => (await fetch(url, {headers})).status"
        key = {"Authorization": f"Bearer {embedded.key}"}
        assert page.evaluate(fetched, [f"{base}/api/sandbox", key]) == 421
        toolbox = f"{base}/toolbox/{sandbox.id}/project-dir"
        assert page.evaluate(fetched, [toolbox, {}]) == 401
        browser.close()
    host = {"Host": f"8000-{sandbox.id}.evil.example"}
    url = f"http://127.0.0.1:{embedded.port}/"
    assert httpx.get(url, headers=host, trust_env=False).status_code == 421
