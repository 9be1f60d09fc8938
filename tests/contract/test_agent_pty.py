"""Terminals of a real agent, used as clients use them: over WebSockets."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.agent_calls import agent_with_shell, children, lives, shell_params, socket_to
from tests.support.agent_rig import AgentRig, running_agent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

pytestmark = pytest.mark.contract
EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentRig]:
    with running_agent(env={"PATH": os.environ["PATH"], "GREETING": "hello"}) as rig:
        yield rig


@pytest.fixture(params=shell_params())
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AgentRig]:
    with agent_with_shell(request.param, tmp_path / "bin") as rig:
        yield rig


def make(agent: AgentRig, **more: Any) -> str:
    name = os.urandom(6).hex()
    made = agent.request("POST", "/process/pty", {"id": name, **more})
    assert (made.status, made.json()) == (201, {"sessionId": name})
    return f"/process/pty/{name}"


def until_closed(link: ClientConnection) -> tuple[bytes, list[Any], int, str]:
    """Return the output, the control messages, and the close code and reason."""
    output, said = bytearray(), []

    def receive() -> None:
        while True:
            message = link.recv(timeout=20)
            if isinstance(message, bytes):
                output.extend(message)
            else:
                said.append(json.loads(message))

    with pytest.raises(ConnectionClosed) as closed:
        receive()
    frame = closed.value.rcvd
    assert frame is not None
    return bytes(output), said, frame.code, frame.reason


def read_until(link: ClientConnection, wanted: bytes) -> bytes:
    seen = bytearray()
    while seen.find(wanted, max(0, len(seen) - (1 << 16))) < 0:
        message = link.recv(timeout=20)
        seen += message if isinstance(message, bytes) else b""
    return bytes(seen)


def test_a_terminal_is_made_used_resized_left_and_ended(agent: AgentRig) -> None:
    name = os.urandom(6).hex()
    body = {"id": name, "cols": 100, "rows": 30, "envs": {"T": "1"}, "cwd": "/"}
    made = agent.request("POST", "/process/pty", body)
    assert (made.status, made.json()) == (201, {"sessionId": name})
    assert agent.request("POST", "/process/pty", body).status == 409
    path = f"/process/pty/{name}"
    with socket_to(agent, f"{path}/connect") as link:
        assert json.loads(link.recv()) == {"type": "control", "status": "connected"}
        link.send(b"stty size; echo $T-$TERM; tty >/dev/null && echo is-a-tty; pwd\n")
        shown = read_until(link, b"is-a-tty\r\n/\r\n")
        assert b"30 100" in shown
        assert b"1-xterm-256color" in shown
    info = agent.request("GET", path).json()
    assert (info["active"], info["cols"], info["cwd"]) == (True, 100, "/")
    assert name in [t["id"] for t in agent.request("GET", "/process/pty").json()["sessions"]]
    resized = agent.request("POST", f"{path}/resize", {"cols": 90, "rows": 20}).json()
    assert (resized["cols"], resized["rows"]) == (90, 20)
    with socket_to(agent, f"{path}/connect", subprotocols=[EXIT_CONTROL]) as link:
        assert link.subprotocol == EXIT_CONTROL
        link.send("stty size; exit 7\n")
        output, said, code, reason = until_closed(link)
    assert b"20 90" in output
    assert said[-1] == {"type": "control", "status": "exited", "exitCode": 7}
    assert (code, json.loads(reason)) == (4000, {"exitCode": 7})
    assert agent.request("POST", f"{path}/resize", {"cols": 9, "rows": 9}).status == 410
    assert agent.request("DELETE", path).status == 200
    assert agent.request("GET", path).status == 404


@pytest.mark.parametrize("envs_first", [True, False])
def test_a_terminal_is_made_by_connecting(agent: AgentRig, envs_first: bool) -> None:
    name = os.urandom(6).hex()
    envs = base64.urlsafe_b64encode(b'{"COLOUR": "blue sky"}').decode().rstrip("=")
    offered = [f"X-Daytona-Pty-Envs~{envs}", EXIT_CONTROL]
    if not envs_first:
        offered.reverse()
    path = f"/process/pty/create-connect?id={name}&cols=91&rows=21&cwd=/"
    with socket_to(agent, path, subprotocols=offered) as link:
        assert link.subprotocol == EXIT_CONTROL
        link.recv()
        link.send(b'echo "<$COLOUR>"; stty size; exit\n')
        shown = read_until(link, b"21 91")
        assert b"<blue sky>" in shown
    eventually(lambda: not agent.request("GET", f"/process/pty/{name}").json()["active"], "ended")


def test_several_clients_see_one_terminal(agent: AgentRig) -> None:
    name = os.urandom(6).hex()
    assert agent.request("POST", "/process/pty", {"id": name}).status == 201
    path = f"/process/pty/{name}/connect"
    with socket_to(agent, path) as one, socket_to(agent, path) as two:
        one.send(b"echo seen-by-$((40+2))\n")
        for link in (one, two):
            read_until(link, b"seen-by-42")
    assert agent.request("DELETE", f"/process/pty/{name}").status == 200


def test_deleting_a_terminal_ends_also_what_was_disowned(agent: AgentRig, tmp_path: Path) -> None:
    name = os.urandom(6).hex()
    agent.request("POST", "/process/pty", {"id": name})
    with socket_to(agent, f"/process/pty/{name}/connect") as link:
        link.send(f"nohup sleep 308 & disown; echo $! > {tmp_path}/p; echo go-$((1+1))\n".encode())
        read_until(link, b"go-2")
    pid = int((tmp_path / "p").read_text())
    assert lives(pid)
    agent.request("DELETE", f"/process/pty/{name}")
    eventually(lambda: not lives(pid), "it is gone")


@pytest.mark.parametrize(("columns", "rows"), [(0, 24), (80, 1001), (1.5, 24), ("x", 24)])
def test_sizes_that_no_terminal_has_are_refused(agent: AgentRig, columns: Any, rows: Any) -> None:
    body = {"id": "bad-size", "cols": columns, "rows": rows}
    answer = agent.request("POST", "/process/pty", body)
    expected = 201 if columns == 0 else 400  # 0 means the default
    assert answer.status == expected
    if expected == 201:
        agent.request("DELETE", "/process/pty/bad-size")


def test_without_exit_control_the_close_alone_tells(agent: AgentRig) -> None:
    with socket_to(agent, f"{make(agent)}/connect") as link:
        link.send(b"exit\n")
        _, said, code, reason = until_closed(link)
    assert [message["status"] for message in said] == ["connected"]
    assert (code, json.loads(reason)) == (1000, {"exitCode": 0})


def test_a_signal_is_an_exit_code(agent: AgentRig) -> None:
    with socket_to(agent, f"{make(agent)}/connect", subprotocols=[EXIT_CONTROL]) as link:
        link.send(b"kill -9 $$\n")
        _, said, _, _ = until_closed(link)
    assert said[-1]["exitCode"] == 137


def test_any_shell_is_interactive_and_echoes(any_shell: AgentRig) -> None:
    with socket_to(any_shell, f"{make(any_shell)}/connect") as link:
        link.send(
            b"echo marker-$((40+2)); [ -t 0 ] && echo is-a-tty-$((1+1)); case $- in *i*) "
            b"echo interactive-$((2+2));; esac\n"
        )
        shown = read_until(link, b"interactive-4")
    assert b"echo marker-$((40+2))" in shown
    assert b"marker-42" in shown
    assert b"is-a-tty-2" in shown


def test_control_c_reaches_the_foreground_program(agent: AgentRig) -> None:
    with socket_to(agent, f"{make(agent)}/connect") as link:
        link.send(b"echo go-$((1+1)); sleep 320\n")
        read_until(link, b"go-2")
        time.sleep(0.2)
        link.send(b"\x03")
        link.send(b"echo code-$?-$((2+2))\n")
        assert b"code-130-4" in read_until(link, b"-4\r\n")


def test_a_lazy_terminal_starts_with_its_first_client(agent: AgentRig) -> None:
    before = len(children(agent))
    path = make(agent, lazyStart=True, cols=120, rows=40)
    info = agent.request("GET", path).json()
    assert (info["lazyStart"], info["active"]) == (True, True)
    assert len(children(agent)) == before
    with socket_to(agent, f"{path}/connect") as link:
        link.send(b"stty size\n")
        read_until(link, b"40 120")
    assert agent.request("DELETE", path).status == 200


def test_a_lazy_terminal_that_never_started_is_deleted_and_resized(agent: AgentRig) -> None:
    path = make(agent, lazyStart=True)
    assert agent.request("POST", f"{path}/resize", {"cols": 70, "rows": 10}).json()["cols"] == 70
    assert agent.request("DELETE", path).status == 200
    assert agent.request("GET", path).status == 404


def test_what_was_printed_while_nobody_looked_is_shown_once(agent: AgentRig) -> None:
    path = make(agent)
    with socket_to(agent, f"{path}/connect") as link:
        link.send(b"(sleep 0.5; echo unseen-$((3+3))) & echo seen-$((1+1))\n")
        read_until(link, b"seen-2\r\n")
    time.sleep(0.8)
    with socket_to(agent, f"{path}/connect") as link:
        read_until(link, b"unseen-6")
    with socket_to(agent, f"{path}/connect") as link:
        link.send(b"echo now-$((4+4))\n")
        assert b"unseen-6" not in read_until(link, b"now-8")


def test_a_lone_slow_client_holds_up_the_program_and_loses_nothing(agent: AgentRig) -> None:
    path = f"{make(agent)}/connect"
    before = agent.memory_kib("VmHWM")
    with socket_to(agent, path, max_queue=1) as link:
        link.send(b"stty -echo; seq 500000; echo the-e''nd\n")
        time.sleep(1)  # it reads nothing: the terminal fills all that lies between
        shown = read_until(link, b"the-end")
        link.send(b"exit\n")
        until_closed(link)
    assert b"".join(b"%d\r\n" % n for n in range(1, 500_001)) in shown
    assert agent.memory_kib("VmHWM") - before < 15_000


def test_a_client_that_does_not_keep_up_with_another_is_dropped(agent: AgentRig) -> None:
    path = f"{make(agent)}/connect"
    with socket_to(agent, path, max_queue=1) as slow:
        with socket_to(agent, path) as quick:
            quick.send(b"head -c 20000000 /dev/zero | tr '\\0' x; echo the-e''nd\n")
            read_until(quick, b"the-end")
        _, _, code, reason = until_closed(slow)
    assert code == 1008
    assert "too slow" in reason


def test_a_long_paste_arrives_whole(agent: AgentRig, tmp_path: Path) -> None:
    pasted = b"".join(b"%06d\n" % n for n in range(50_000))
    with socket_to(agent, f"{make(agent)}/connect") as link:
        link.send(f"stty -echo; cat > {tmp_path}/pasted; echo go''ne\n".encode())
        time.sleep(0.3)
        link.send(pasted + b"\x04")
        read_until(link, b"gone")
    assert (tmp_path / "pasted").read_bytes() == pasted


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("cols=0x10", "cols"),
        ("rows=1001", "rows"),
        ("cwd=/does/not/exist", "/does/not/exist"),
    ],
)
def test_create_connect_refuses_before_the_upgrade(agent: AgentRig, query: str, word: str) -> None:
    name = os.urandom(6).hex()
    path = f"/process/pty/create-connect?id={name}&{query}"
    with pytest.raises(InvalidStatus) as refused, socket_to(agent, path):
        pass
    assert refused.value.response.status_code == 400
    assert word in json.loads(refused.value.response.body)["message"]
    assert agent.request("GET", f"/process/pty/{name}").status == 404


def test_create_connect_refuses_a_name_that_is_taken_and_bad_variables(agent: AgentRig) -> None:
    path = make(agent)
    again = f"/process/pty/create-connect?id={path.rpartition('/')[2]}"
    with pytest.raises(InvalidStatus) as refused, socket_to(agent, again):
        pass
    assert refused.value.response.status_code == 409
    for envs in (b'{"A-B": "1"}', b"[]", b'{"A": 1}', b"{"):
        offered = f"X-Daytona-Pty-Envs~{base64.urlsafe_b64encode(envs).decode().rstrip('=')}"
        fresh = f"/process/pty/create-connect?id={os.urandom(4).hex()}"
        with pytest.raises(InvalidStatus) as bad, socket_to(agent, fresh, subprotocols=[offered]):
            pass
        assert bad.value.response.status_code == 400


def test_create_connect_without_a_websocket_makes_nothing(agent: AgentRig) -> None:
    answer = agent.request("GET", "/process/pty/create-connect", id="plain")
    assert answer.status == 426
    assert agent.request("GET", "/process/pty/plain").status == 404


def test_a_sole_offer_is_echoed(agent: AgentRig) -> None:
    """Some clients abort when they offered subprotocols and got none."""
    envs = base64.urlsafe_b64encode(b'{"V": "1"}').decode().rstrip("=")
    offered = f"X-Daytona-Pty-Envs~{envs}"
    path = f"/process/pty/create-connect?id={os.urandom(4).hex()}"
    with socket_to(agent, path, subprotocols=[offered]) as link:
        assert link.subprotocol == offered
        link.send(b"exit\n")
        assert until_closed(link)[2] == 1000


def test_what_there_is_not_cannot_be_used(agent: AgentRig) -> None:
    for method, route in (("GET", ""), ("DELETE", ""), ("POST", "/resize")):
        body = {"cols": 80, "rows": 24} if method == "POST" else None
        assert agent.request(method, f"/process/pty/none{route}", body).status == 404
    with pytest.raises(InvalidStatus) as refused, socket_to(agent, "/process/pty/none/connect"):
        pass
    assert refused.value.response.status_code == 404


def test_a_terminal_whose_shell_cannot_be_run_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    with running_agent() as rig:
        path = make(rig, lazyStart=True, cwd=str(directory))
        directory.rmdir()
        with socket_to(rig, f"{path}/connect") as link:
            _, said, code, _ = until_closed(link)
    assert said[0]["status"] == "error"
    assert said[0]["error"]
    assert code == 1011


def test_attached_clients_see_the_end_of_a_deleted_terminal(agent: AgentRig) -> None:
    path = make(agent)
    with socket_to(agent, f"{path}/connect", subprotocols=[EXIT_CONTROL]) as link:
        began = time.monotonic()
        assert agent.request("DELETE", path).status == 200
        _, said, code, _ = until_closed(link)
        assert time.monotonic() - began < 3
    assert said[-1]["status"] == "exited"
    assert code == 4000


def test_a_name_is_free_again_after_the_end(agent: AgentRig) -> None:
    path = make(agent)
    with socket_to(agent, f"{path}/connect") as link:
        link.send(b"exit 3\n")
        until_closed(link)
    assert agent.request("GET", path).json()["active"] is False
    name = path.rpartition("/")[2]
    assert agent.request("POST", "/process/pty", {"id": name}).status == 201


def test_terminals_leave_no_descriptor_behind(agent: AgentRig) -> None:
    descriptors = Path(f"/proc/{agent.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        path = make(agent)
        with socket_to(agent, f"{path}/connect"):
            pass
        agent.request("DELETE", path)
    eventually(lambda: len(list(descriptors.iterdir())) <= before, "all are closed")
    assert not [pid for pid in children(agent) if not lives(pid)]
