"""The process side of the toolbox, against a real agent: execute, code-run, sessions, terminals."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.agent_rig import SECRET, AgentRig, running_agent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.contract
NEWEST = {"X-Daytona-SDK-Version": "0.226.1"}
OLD = {"X-Daytona-SDK-Version": "0.21.0"}
MIDDLE = {"X-Daytona-SDK-Version": "0.115.0"}


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentRig]:
    with running_agent(env={"GREETING": "hello", "EMPTY": ""}) as rig:
        yield rig


def shells() -> list[Any]:
    found = []
    for name, path in (("bash", "/bin/bash"), ("dash", "/bin/dash"), ("ash", "/bin/busybox")):
        marks = [] if Path(path).exists() else [pytest.mark.skip(reason=f"{path} is not here")]
        found.append(pytest.param(path, id=name, marks=marks))
    return found


@pytest.fixture(params=shells())
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AgentRig]:
    """An agent in whose PATH this shell is the only one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "bash"):
        program = programs / name
        if request.param == "/bin/busybox":  # it goes by its own name
            program.write_text('#!/bin/busybox sh\nexec /bin/busybox sh "$@"\n')
            program.chmod(0o755)
        else:
            program.symlink_to(request.param)
    for name in ("cat", "sleep", "echo", "printf", "pwd", "head", "true", "setsid", "seq"):
        if (found := shutil.which(name)) is not None:
            (programs / name).symlink_to(found)
    with running_agent(env={"PATH": str(programs)}) as rig:
        yield rig


def run(agent: AgentRig, command: str, headers: dict[str, str] = NEWEST, **more: Any) -> Any:
    body = {"command": command, **more}
    answer = agent.request("POST", "/process/execute", body, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


# -- execute ----------------------------------------------------------------------------------


def test_both_streams_and_the_exit_code_come_back(agent: AgentRig) -> None:
    assert run(agent, "echo out; echo err >&2; exit 7") == {"exitCode": 7, "result": "out\nerr\n"}


def test_a_script_of_many_lines_with_a_here_document_runs(agent: AgentRig) -> None:
    script = "x=5\ncat <<END | tr a-z A-Z\nvalue $x\nEND\nfor i in 1 2; do echo $i; done"
    assert run(agent, script)["result"] == "VALUE 5\n1\n2\n"


def test_the_environment_of_the_create_holds_and_the_call_adds_to_it(agent: AgentRig) -> None:
    shown = run(agent, 'echo "$GREETING-${EMPTY-unset}-$MORE"', envs={"MORE": "a b"})["result"]
    assert shown == "hello--a b\n"


@pytest.mark.parametrize("name", ["A-B", "1A", "", "A=B"])
def test_bad_names_of_variables_are_refused(agent: AgentRig, name: str) -> None:
    body = {"command": "true", "envs": {name: "x"}}
    answer = agent.request("POST", "/process/execute", body)
    assert answer.status == 400
    assert "variable" in answer.json()["message"]


def test_an_old_client_s_command_is_expanded_once(agent: AgentRig) -> None:
    inner = base64.b64encode(b"echo \"$A\" 'q' `echo t`").decode()
    value = base64.b64encode(b"$HOME `id` \"quoted\" 'x'").decode()
    command = f"sh -c \"export A=$(echo '{value}' | base64 -d); echo '{inner}' | base64 -d | sh\""
    assert run(agent, command, OLD)["result"] == "$HOME `id` \"quoted\" 'x' q t\n"


def test_a_command_longer_than_an_argument_may_be_runs(agent: AgentRig) -> None:
    text = "x" * 1_000_000
    assert run(agent, f"printf %s {text} | wc -c")["result"].strip() == "1000000"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"command": ""}, "command"),
        ({"command": "  "}, "command"),
        ({}, "command"),
        ({"command": "true", "cwd": "/does/not/exist"}, "/does/not/exist"),
        ({"command": "a\0b"}, "NUL"),
    ],
)
def test_what_cannot_be_run_is_refused_and_named(
    agent: AgentRig, body: dict[str, Any], word: str
) -> None:
    answer = agent.request("POST", "/process/execute", body)
    assert answer.status == 400
    assert word in answer.json()["message"]


def test_background_children_do_not_hold_up_the_answer(agent: AgentRig) -> None:
    began = time.monotonic()
    assert run(agent, "sleep 300 & echo $!")["exitCode"] == 0
    assert time.monotonic() - began < 60


def test_a_time_out_kills_the_whole_tree(agent: AgentRig, tmp_path: Path) -> None:
    script = (
        f"trap '' TERM; echo $$ >> {tmp_path}/p; (sleep 301 & echo $! >> {tmp_path}/p; wait) & "
        f"nohup sleep 302 >/dev/null 2>&1 & echo $! >> {tmp_path}/p; "
        f"setsid sleep 303 & echo $! >> {tmp_path}/p; sleep 304"
    )
    answer = agent.request("POST", "/process/execute", {"command": script, "timeout": 1})
    assert answer.status == 408
    said = answer.json()
    assert "timeout" in said["message"]
    assert said["code"] == "PROCESS_EXECUTION_TIMEOUT"
    pids = [int(line) for line in (tmp_path / "p").read_text().split()]
    assert len(pids) == 4
    eventually(lambda: not [p for p in pids if lives(p)], "all are gone")


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_client_that_hangs_up_ends_its_command(agent: AgentRig, tmp_path: Path) -> None:
    body = json.dumps({"command": f"echo $$ > {tmp_path}/p; sleep 305"}).encode()
    with agent.connect() as link:
        link.sendall(
            b"POST /process/execute HTTP/1.1\r\nHost: x\r\nX-Yurt-Secret: "
            + SECRET.encode()
            + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        eventually(lambda: (tmp_path / "p").exists() and (tmp_path / "p").read_text(), "started")
    pid = int((tmp_path / "p").read_text())
    eventually(lambda: not lives(pid), "it is gone")


def test_much_output_is_kept_in_bounded_memory(agent: AgentRig) -> None:
    before = agent.memory_kib("VmRSS")
    shown = run(agent, "head -c 100000000 /dev/zero | tr '\\0' x; echo end")["result"]
    assert "bytes of output left out" in shown
    assert shown.endswith("end\n")
    assert len(shown) < 20_000_000
    assert agent.memory_kib("VmHWM") - before < 150_000


def test_no_zombie_is_left(agent: AgentRig) -> None:
    for _ in range(5):
        run(agent, "true; (exit 3)")
    listed = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text()
    for child in listed.split():
        assert lives(int(child))


# -- code-run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "code", "printed"),
    [
        ("python", "import sys, os\nprint(sys.argv[1:], os.environ['X'])", "['a', 'b c'] 1\n"),
        (
            "javascript",
            "console.log(process.argv.slice(2).join('|'), process.env.X)",
            "a|b c 1\n",
        ),
    ],
)
def test_code_runs_with_arguments_and_environment(
    agent: AgentRig, language: str, code: str, printed: str
) -> None:
    body = {"code": code, "language": language, "argv": ["a", "b c"], "envs": {"X": "1"}}
    answer = agent.request("POST", "/process/code-run", body)
    assert answer.json() == {"exitCode": 0, "result": printed}


def test_charts_are_taken_out_of_the_output(agent: AgentRig) -> None:
    chart = {"type": "chart", "value": {"title": "t"}}
    code = f"print('before')\nprint('dtn_artifact_k39fd2:' + {json.dumps(json.dumps(chart))})"
    said = agent.request("POST", "/process/code-run", {"code": code, "language": "python"}).json()
    assert said == {
        "exitCode": 0,
        "result": "before\n",
        "artifacts": {"charts": [{"title": "t"}]},
    }


def test_an_unknown_language_is_refused_with_those_that_are_known(agent: AgentRig) -> None:
    answer = agent.request("POST", "/process/code-run", {"code": "x", "language": "cobol"})
    assert answer.status == 400
    assert "python" in answer.json()["message"]


# -- sessions ---------------------------------------------------------------------------------


def create(agent: AgentRig) -> str:
    name = os.urandom(6).hex()
    assert agent.request("POST", "/process/session", {"sessionId": name}).status == 201
    return name


def perform(agent: AgentRig, session: str, command: str, **more: Any) -> Any:
    headers = more.pop("headers", NEWEST)
    answer = agent.request(
        "POST", f"/process/session/{session}/exec", {"command": command, **more}, headers=headers
    )
    assert answer.status == (202 if more.get("runAsync") or more.get("async") else 200), answer
    return answer.json()


def test_commands_share_one_shell(any_shell: AgentRig) -> None:
    session = create(any_shell)
    perform(any_shell, session, "cd /; export A='x y'; f() { echo in-f; }")
    said = perform(any_shell, session, 'pwd; echo "$A"; f; echo problem >&2; (exit 4)')
    assert said["stdout"] == "/\nx y\nin-f\n"
    assert said["stderr"] == "problem\n"
    assert said["exitCode"] == 4


def test_exit_is_recorded_and_the_session_answers_afterwards(any_shell: AgentRig) -> None:
    session = create(any_shell)
    assert perform(any_shell, session, "echo bye; exit 3")["exitCode"] == 3
    again = perform(any_shell, session, "echo again")
    assert (again["exitCode"], again["stdout"]) == (0, "again\n")


@pytest.mark.parametrize(
    "command",
    ["echo 'unbalanced", 'echo "unbalanced', "if true; then", "echo $(", "cat <<EOF\nno end", ")"],
)
def test_a_syntax_error_neither_hangs_nor_ends_the_session(
    any_shell: AgentRig, command: str
) -> None:
    session = create(any_shell)
    perform(any_shell, session, command)
    again = perform(any_shell, session, "echo again")
    assert (again["exitCode"], again["stdout"]) == (0, "again\n")


@pytest.mark.parametrize("command", ["echo a \\", "echo a # comment", "echo a\n", "echo a;"])
def test_odd_endings_are_just_endings(any_shell: AgentRig, command: str) -> None:
    session = create(any_shell)
    assert perform(any_shell, session, command)["stdout"].split() == ["a"]


def test_a_synchronous_command_has_no_input(any_shell: AgentRig) -> None:
    session = create(any_shell)
    assert perform(any_shell, session, "cat; echo done")["stdout"] == "done\n"


def test_input_reaches_an_asynchronous_command(any_shell: AgentRig) -> None:
    session = create(any_shell)
    started = perform(any_shell, session, 'read a; read b; echo "got $a $b"', runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}"
    assert "exitCode" not in any_shell.request("GET", path).json()
    for line in ("one", "two\n"):
        assert any_shell.request("POST", f"{path}/input", {"data": line}).status == 204
    eventually(lambda: any_shell.request("GET", path).json().get("exitCode") == 0, "ended")
    logs = any_shell.request("GET", f"{path}/logs", headers=NEWEST).json()
    assert logs["stdout"] == "got one two\n"
    late = any_shell.request("POST", f"{path}/input", {"data": "x"})
    assert (late.status, late.json()["code"]) == (410, "COMMAND_ALREADY_COMPLETED")


def test_a_command_may_take_the_place_of_the_shell(any_shell: AgentRig) -> None:
    session = create(any_shell)
    started = perform(any_shell, session, "echo first; exec sleep 1", **{"async": True})
    path = f"/process/session/{session}/command/{started['cmdId']}"
    eventually(lambda: any_shell.request("GET", path).json().get("exitCode") == 0, "ended")
    assert any_shell.request("GET", f"{path}/logs", headers=OLD).body == b"first\n"
    assert perform(any_shell, session, "echo next")["stdout"] == "next\n"


def test_a_command_of_a_megabyte_runs(agent: AgentRig) -> None:
    session = create(agent)
    said = perform(agent, session, f"printf %s {'y' * 1_000_000} | wc -c")
    assert said["stdout"].strip() == "1000000"


def test_each_generation_gets_its_log_format(agent: AgentRig) -> None:
    session = create(agent)
    command = "echo out; echo err >&2"
    old = perform(agent, session, command, headers=OLD)
    assert sorted(old["output"].split()) == ["err", "out"]
    assert "stdout" not in old
    middle = perform(agent, session, command, headers=MIDDLE)
    assert "\x01\x01\x01out\n" in middle["output"]
    assert "\x02\x02\x02err\n" in middle["output"]
    newest = perform(agent, session, command)
    assert (newest["stdout"], newest["stderr"]) == ("out\n", "err\n")
    path = f"/process/session/{session}/command/{newest['cmdId']}/logs"
    plain = agent.request("GET", path)
    assert plain.headers["content-type"].startswith("text/plain")
    assert sorted(plain.body.split()) == [b"err", b"out"]
    split = agent.request("GET", path, headers={"X-Daytona-SDK-Version": "0.0.0-dev"}).json()
    assert (split["stdout"], split["stderr"]) == ("out\n", "err\n")


def test_logs_are_followed_by_http(agent: AgentRig) -> None:
    session = create(agent)
    command = "for i in 1 2 3; do echo line $i; sleep 0.2; done"
    started = perform(agent, session, command, runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}/logs"
    followed = agent.request("GET", path, headers=OLD, follow=True)
    assert followed.body == b"line 1\nline 2\nline 3\n"


def socket_to(agent: AgentRig, path: str, **more: Any) -> ClientConnection:
    headers = {"X-Yurt-Secret": SECRET, **more.pop("headers", NEWEST)}
    return connect(
        f"ws://127.0.0.1:{agent.port}{path}",
        additional_headers=headers,
        max_size=None,
        proxy=None,
        **more,
    )


def test_logs_are_followed_by_websocket_and_the_end_is_1000(agent: AgentRig) -> None:
    session = create(agent)
    started = perform(agent, session, "echo a; sleep 0.3; echo b >&2; exit 5", runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}/logs?follow=true"
    with socket_to(agent, path) as link:
        received = b"".join(m if isinstance(m, bytes) else m.encode() for m in link)
        assert link.close_code == 1000
    assert received == b"\x01\x01\x01a\n\x02\x02\x02b\n"
    name = "X-Daytona-SDK-Version~0.226.1"
    with socket_to(agent, path, headers={}, subprotocols=[name]) as link:
        assert link.subprotocol == name
        assert b"".join(m for m in link if isinstance(m, bytes)) == received


def test_much_log_passes_whole_and_in_bounded_memory(agent: AgentRig) -> None:
    session = create(agent)
    size = 30_000_000
    started = perform(agent, session, f"head -c {size} /dev/zero | tr '\\0' z", runAsync=True)
    before = agent.memory_kib("VmRSS")
    path = f"/process/session/{session}/command/{started['cmdId']}/logs?follow=true"
    with socket_to(agent, path) as link:
        received = sum(len(m) for m in link)
    assert received >= size
    assert agent.memory_kib("VmRSS") - before < 50_000


def test_deleting_a_session_spares_daemons(agent: AgentRig, tmp_path: Path) -> None:
    session = create(agent)
    perform(
        agent,
        session,
        f"(setsid sh -c 'echo $$ > {tmp_path}/daemon; while :; do echo still here; sleep 0.05; "
        f"done' &) ; sleep 306 & echo $! > {tmp_path}/child",
    )
    eventually(lambda: (tmp_path / "daemon").exists(), "the daemon runs")
    daemon = int(eventually((tmp_path / "daemon").read_text, "its pid is there"))
    child = int((tmp_path / "child").read_text())
    try:
        assert agent.request("DELETE", f"/process/session/{session}").status == 204
        eventually(lambda: not lives(child), "the child is gone")
        time.sleep(0.3)  # several writes of the daemon to a log that nobody keeps
        assert lives(daemon)
        assert agent.request("GET", f"/process/session/{session}").status == 404
    finally:
        os.kill(daemon, 9)


def test_sessions_are_listed_and_their_ids_are_unique(agent: AgentRig) -> None:
    session = create(agent)
    assert agent.request("POST", "/process/session", {"sessionId": session}).status == 409
    done = perform(agent, session, "true")
    wanted = {
        "sessionId": session,
        "commands": [{"id": done["cmdId"], "command": "true", "exitCode": 0}],
    }
    assert agent.request("GET", f"/process/session/{session}").json() == wanted
    assert wanted in agent.request("GET", "/process/session").json()
    assert agent.request("GET", f"/process/session/{session}/command/none").status == 404


def test_the_entrypoint_is_a_session(tmp_path: Path) -> None:
    with running_agent(entrypoint=["/bin/sh", "-c", "echo up; sleep 307"]) as rig:
        path = "/process/session/entrypoint"
        shown = rig.request("GET", path).json()
        assert shown["commands"][0]["id"] == "entrypoint_command"
        eventually(
            lambda: rig.request("GET", f"{path}/logs", headers=OLD).body == b"up\n", "printed"
        )
        program = rig.process.pid
        children = Path(f"/proc/{program}/task/{program}/children").read_text().split()
        assert rig.stop() == 0
        assert not [c for c in children if lives(int(c))]


# -- terminals --------------------------------------------------------------------------------


def read_until(link: ClientConnection, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        message = link.recv(timeout=20)
        seen += message if isinstance(message, bytes) else b""
    return seen


def receive_all(link: ClientConnection, into: list[str | bytes]) -> None:
    while True:
        into.append(link.recv(timeout=20))


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
    with socket_to(agent, f"{path}/connect", subprotocols=["X-Daytona-Pty-Exit-Control"]) as link:
        assert link.subprotocol == "X-Daytona-Pty-Exit-Control"
        link.send("stty size; exit 7\n")
        messages: list[str | bytes] = []
        with pytest.raises(ConnectionClosed) as closed:
            receive_all(link, messages)
        assert b"20 90" in b"".join(m for m in messages if isinstance(m, bytes))
        said = [json.loads(m) for m in messages if isinstance(m, str)]
        assert said[-1] == {"type": "control", "status": "exited", "exitCode": 7}
        assert closed.value.rcvd is not None
        assert json.loads(closed.value.rcvd.reason) == {"exitCode": 7}
    assert agent.request("POST", f"{path}/resize", {"cols": 9, "rows": 9}).status == 410
    assert agent.request("DELETE", path).status == 200
    assert agent.request("GET", path).status == 404


@pytest.mark.parametrize("envs_first", [True, False])
def test_a_terminal_is_made_by_connecting(agent: AgentRig, envs_first: bool) -> None:
    name = os.urandom(6).hex()
    envs = base64.urlsafe_b64encode(b'{"COLOUR": "blue sky"}').decode().rstrip("=")
    offered = [f"X-Daytona-Pty-Envs~{envs}", "X-Daytona-Pty-Exit-Control"]
    if not envs_first:
        offered.reverse()
    path = f"/process/pty/create-connect?id={name}&cols=91&rows=21&cwd=/"
    with socket_to(agent, path, subprotocols=offered) as link:
        assert link.subprotocol == "X-Daytona-Pty-Exit-Control"
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


def test_stopping_the_agent_leaves_no_process() -> None:
    with running_agent() as rig:
        session = create(rig)
        perform(rig, session, "sleep 309", runAsync=True)
        rig.request("POST", "/process/pty", {"id": "t"})
        pid = rig.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert children
        assert rig.stop() == 0
        assert not [c for c in children if lives(int(c))]
