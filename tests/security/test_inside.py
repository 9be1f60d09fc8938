"""From inside a sandbox nothing is to be reached or opened that is not its own."""

from __future__ import annotations

import json
import platform
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.security.outside import NEVER, PORT, PUBLIC, Outside
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Api, Sandbox
    from tests.support.instance import Instance

pytestmark = pytest.mark.security

PROBE = (Path(__file__).parent / "inside" / "probe.py").read_bytes()
ALLOWED = "allowed"

# The bounding set of design.md section 5: what package managers and sudo need, and no more.
# Numbers of linux/capability.h; the same on every architecture.
CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    "net_raw": 13,
    "sys_chroot": 18,
    "mknod": 27,
    "audit_write": 29,
    "setfcap": 31,
}

# Root inside is the same user as its own init; looking at that is looking at itself.
OWN_OF_ROOT = {"trace the init", "read the init's memory", "read the init's environment"}


@pytest.fixture(scope="module")
def inside(api: Api) -> Iterator[Sandbox]:
    with api.sandbox() as made:
        made.upload(PROBE, "/tmp/probe.py")
        yield made


@pytest.fixture(scope="module")
def neighbour(api: Api) -> Iterator[Sandbox]:
    """Another sandbox, with a server on all of its addresses."""
    with api.sandbox() as made:
        made.background(f"python3 -m http.server {PORT}")
        eventually(
            lambda: made.execute(f"curl -sf http://127.0.0.1:{PORT}/")[0] == 0, "the neighbour"
        )
        yield made


def probe(sandbox: Sandbox, verb: str, argument: object, *, as_root: bool = False) -> Any:
    """Run the probe inside and return its report."""
    text = argument if isinstance(argument, str) else json.dumps(argument)
    command = f"python3 /tmp/probe.py {verb} '{text}'"
    said = sandbox.root(command) if as_root else sandbox.check(command)
    return json.loads(said)


def own_address(sandbox: Sandbox) -> str:
    """The address of the sandbox on its link to the host."""
    return sandbox.check("hostname -I").split()[0]


@pytest.mark.parametrize("as_root", [False, True], ids=["user", "root"])
def test_no_dangerous_call_is_let_through(
    inside: Sandbox, calls: dict[str, int], as_root: bool
) -> None:
    report = probe(inside, "calls", calls, as_root=as_root)
    allowed = {name for name, said in report.items() if said == ALLOWED}
    assert allowed - (OWN_OF_ROOT if as_root else set()) == set()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="has no such other calls")
def test_32_bit_calls_end_their_process(inside: Sandbox) -> None:
    script = (
        "import ctypes, mmap; page = mmap.mmap(-1, 4096, prot=7); "
        "page.write(bytes.fromhex('b814000000cd80c3')); "  # getpid by interrupt 0x80
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
    )
    code, said = inside.execute(f'python3 -c "{script}"')
    assert code == 128 + signal.SIGSYS, said


def test_programs_may_trace_their_own_children(inside: Sandbox) -> None:
    """The refusals above are no blanket refusal: debuggers work."""
    script = "import ctypes, os; print(ctypes.CDLL(None).ptrace(0, 0, None, None))"
    assert inside.check(f'python3 -c "{script}"').strip() == "0"


def test_the_capabilities_are_the_short_list(inside: Sandbox) -> None:
    sets = dict(
        line.split(":\t") for line in inside.root("grep ^Cap /proc/self/status").splitlines()
    )
    expected = sum(1 << number for number in CAPABILITIES.values())
    assert int(sets["CapBnd"], 16) == expected
    assert int(sets["CapEff"], 16) == expected
    assert int(sets["CapAmb"], 16) == 0
    mine = inside.check("grep ^CapEff /proc/self/status").split()[1]
    assert int(mine, 16) == 0


def test_the_internet_is_reached_and_nothing_nearer(
    inside: Sandbox,
    neighbour: Sandbox,
    outside: Outside,
    host_service: list[tuple[str, int]],
    embedded: Instance,
) -> None:
    beside = own_address(neighbour)
    host = host_service[0][1]
    forbidden = [
        *host_service,
        *((address, embedded.port) for address, _ in host_service),
        *((address, PORT) for address in (*NEVER, beside)),
        (_link_end(own_address(inside)), host),
        (_link_end(beside), host),
    ]
    report = probe(inside, "reach", [(PUBLIC, PORT), *forbidden])
    assert report.pop(f"{PUBLIC}:{PORT}") == ALLOWED
    assert {target for target, said in report.items() if said == ALLOWED} == set()


def _link_end(address: str) -> str:
    """The host's end of a sandbox's /31."""
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) ^ 1}"


def test_the_link_reaches_other_sandboxes_in_no_way_at_all(
    inside: Sandbox, neighbour: Sandbox, outside: Outside
) -> None:
    """Also not with a forged source address."""
    beside, mine = own_address(neighbour), own_address(inside)
    hear = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"s.bind(('', {PORT})); "
        "[print(s.recvfrom(100)[0].decode(), flush=True) for _ in range(100)]"
    )
    heard = neighbour.background(f'python3 -u -c "{hear}"')
    speak = f"echo own > /dev/udp/{beside}/{PORT}"

    def hears_itself() -> bool:
        neighbour.check(f"bash -c '{speak}'")
        return "own" in neighbour.logs(*heard)

    eventually(hears_itself, "the neighbour to hear itself")
    sources = [mine, _link_end(mine), _link_end(beside), beside, "10.201.99.99", "198.51.100.9"]
    forged = [[source, beside, PORT, f"to-beside-{source}"] for source in sources]
    forged += [[source, PUBLIC, PORT, f"to-public-{source}"] for source in sources[1:]]
    probe(inside, "forge", [*forged, [mine, PUBLIC, PORT, "honest"]], as_root=True)
    # What was sent last and honestly has arrived: so would have the rest.
    eventually(lambda: any(b"honest" in p for p in outside.packets), "the honest datagram")
    assert not [packet for packet in outside.packets if b"to-public-" in packet]
    neighbour.check(f"bash -c '{speak}'")
    assert set(neighbour.logs(*heard).split()) == {"own"}


def test_the_host_is_not_reached_by_link_local_addresses(inside: Sandbox) -> None:
    """A link has them by itself, and a service of the host that listens on all has them, too."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=False) as service:
        port = service.getsockname()[1]
        socket.create_connection(("::1", port), timeout=5).close()
        targets = [(f"{address}%eth0", port) for address in (*link_local(), "fe80::1", "ff02::1")]
        report = probe(inside, "reach", targets)
        assert set(report) == {f"{address}:{port}" for address, port in targets}
        assert ALLOWED not in report.values()


def link_local() -> list[str]:
    """IPv6 addresses of the host's ends of all links to sandboxes."""
    listed = subprocess.run(["ip", "-json", "-6", "addr"], capture_output=True, check=True)
    return [
        address["local"]
        for link in json.loads(listed.stdout)
        if link.get("ifname", "").startswith("yv")
        for address in link["addr_info"]
    ]


@pytest.mark.parametrize("path", ["/version", "/files?path=/", "/process/session"])
def test_the_agent_answers_nobody_without_its_secret(inside: Sandbox, path: str) -> None:
    url = f"http://127.0.0.1:2280{path}"
    ask = "curl -s -o /dev/null -w '%{http_code}'"
    assert inside.check(f"{ask} '{url}'") == "403"
    assert inside.check(f"{ask} -H 'X-Yurt-Secret: guessed' '{url}'") == "403"


def test_the_agent_runs_nothing_for_a_page_inside(inside: Sandbox) -> None:
    body = '{"command": "touch /tmp/owned"}'
    said = inside.check(
        f"curl -s -o /dev/null -w '%{{http_code}}' -d '{body}' "
        "http://127.0.0.1:2280/process/execute; test -e /tmp/owned && echo owned || echo clean"
    )
    assert said.split() == ["403clean"]


def test_no_secret_of_the_host_is_to_be_found_inside(inside: Sandbox, embedded: Instance) -> None:
    secrets = json.loads((embedded.data / "secrets.json").read_text())
    patterns = "\n".join([*map(str, secrets.values()), embedded.key])
    inside.upload(f"{patterns}\n".encode(), "/dev/shm/patterns")
    assert probe(inside, "find", "/dev/shm/patterns", as_root=True) == []
    inside.upload(f"{patterns}\n".encode(), "/tmp/planted")
    planted = probe(inside, "find", "/dev/shm/patterns", as_root=True)
    inside.check("rm /tmp/planted /dev/shm/patterns")
    assert planted == ["/tmp/planted"], "the search itself does not find"
