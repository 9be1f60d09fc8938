"""A sandbox without network gets not one packet out, from its birth on."""

from __future__ import annotations

import secrets
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.environments import python_of
from tests.support.api import Sandbox
from tests.support.instance import REPOSITORY
from tests.support.store import add_snapshot
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.security.outside import Outside
    from tests.support.api import Api
    from tests.support.instance import Instance

pytestmark = pytest.mark.security

SHOUT = (Path(__file__).parent / "inside" / "shout.py").read_text()
SNAPSHOT = "shouting"
ALL_PROTOCOLS = 3  # ETH_P_ALL
LINK = "yv"


class Eavesdropper:
    """Sees every packet of every interface of the host."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                packet, (interface, *_) = self._socket.recvfrom(65535)
            except TimeoutError:
                continue
            self.heard.append((interface, packet))

    def close(self) -> None:
        self._ended.set()
        self._listener.join()
        self._socket.close()

    def marked(self, mark: str) -> tuple[int, set[str]]:
        """Count the packets with a mark on links to sandboxes; name the others that had any."""
        found = [interface for interface, packet in self.heard if mark.encode() in packet]
        return (
            sum(interface.startswith(LINK) for interface in found),
            {interface for interface in found if not interface.startswith(LINK)},
        )


@pytest.fixture
def eavesdropper() -> Iterator[Eavesdropper]:
    made = Eavesdropper()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shouting(embedded: Instance) -> str:
    """A snapshot whose entrypoint sends as soon as it lives."""
    add_snapshot(embedded, SNAPSHOT, ["python3", "-c", SHOUT])
    return SNAPSHOT


def create_blocked(embedded: Instance, api: Api, snapshot: str, mark: str) -> Sandbox:
    """Create it as a user of the newest SDK does."""
    ran = subprocess.run(
        [python_of("newest"), "-m", "tests.e2e.sdk.create_blocked", snapshot, mark],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **embedded.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return Sandbox(api, ran.stdout.strip())


def test_an_entrypoint_without_network_gets_no_packet_out(
    embedded: Instance, api: Api, shouting: str, outside: Outside, eavesdropper: Eavesdropper
) -> None:
    mark = f"blocked{secrets.token_hex(8)}"
    sandbox = create_blocked(embedded, api, shouting, mark)
    try:
        assert sandbox.record()["networkBlockAll"] is True
        eventually(lambda: shouts(sandbox), "the entrypoint to shout")
        sandbox.stop()
        sandbox.start()
        eventually(lambda: shouts(sandbox), "the entrypoint to shout again")
    finally:
        sandbox.delete()
    _, elsewhere = eavesdropper.marked(mark[::-1])
    assert elsewhere == set()
    assert not [packet for packet in outside.packets if mark[::-1].encode() in packet]


def shouts(sandbox: Sandbox) -> bool:
    """Whether the entrypoint runs, and has had some time to try."""
    age = sandbox.check("ps -eo etimes=,args= | awk '/MARK/ && !/awk/ {print $1; exit}'").strip()
    return age.isdigit() and int(age) >= 2


def test_the_same_entrypoint_with_network_is_heard(
    api: Api, shouting: str, outside: Outside, eavesdropper: Eavesdropper
) -> None:
    """What finds nothing above does find it where it is."""
    mark = f"open{secrets.token_hex(8)}"
    with api.sandbox(snapshot=shouting, env={"MARK": mark}):
        eventually(
            lambda: any(mark[::-1].encode() in packet for packet in list(outside.packets)),
            "the mark outside",
        )
    on_links, elsewhere = eavesdropper.marked(mark[::-1])
    assert on_links > 0
    assert elsewhere
