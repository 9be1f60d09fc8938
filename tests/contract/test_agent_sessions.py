"""Sessions of a real agent: commands that share a shell, their logs and their input."""

from __future__ import annotations

import os
import pwd
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.agent_calls import (
    MIDDLE,
    NEWEST,
    OLD,
    agent_with_shell,
    children,
    create,
    lives,
    perform,
    shell_params,
    socket_to,
)
from tests.support.agent_rig import SECRET, AgentRig, running_agent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentRig]:
    with running_agent(env={"PATH": os.environ["PATH"]}) as rig:
        yield rig


@pytest.fixture(scope="module", params=shell_params())
def any_shell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentRig]:
    with agent_with_shell(request.param, tmp_path_factory.mktemp("shell") / "bin") as rig:
        yield rig


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
    "command", ["echo 'unbalanced", 'echo "unbalanced', "if true; then", "echo $(", ")", "foo("]
)
def test_a_syntax_error_is_code_2_and_the_shell_lives_on(any_shell: AgentRig, command: str) -> None:
    session = create(any_shell)
    perform(any_shell, session, "cd /; KEPT=yes")
    assert perform(any_shell, session, command)["exitCode"] == 2
    again = perform(any_shell, session, 'echo "$PWD $KEPT"')
    assert (again["exitCode"], again["stdout"]) == (0, "/ yes\n")


@pytest.mark.parametrize(
    ("command", "code", "printed"),
    [
        ("cat <<EOF\none\ntwo $((1+1))\nEOF", 0, "one\ntwo 2\n"),
        ("cat <<'EOF'\n$raw `raw`\nEOF\necho after", 0, "$raw `raw`\nafter\n"),
        ("cat <<EOF\nno end", 0, "no end\n"),
        ("for i in 1 2; do\n  echo $i\ndone", 0, "1\n2\n"),
        ("f() {\n  echo \"$1\"\n}\nf 'a  b'", 0, "a  b\n"),
        ("echo a; false", 1, "a\n"),
        ("set -e; false; echo never", 1, ""),
        ("kill -9 $$", 137, ""),
        ("echo() { true; }; printf x", 0, "x"),
        ("return 4", 4, ""),
        ("trap 'printf t >/dev/null' EXIT; exit 6", 6, ""),
        ("exec >/dev/null; echo hidden", 0, ""),
        ("set -C; IFS=0; set -f; printf y", 0, "y"),
        ("nonsense-command 2>/dev/null", 127, ""),
        ("break; continue; printf z", 0, "z"),
        ("printf 'no newline'", 0, "no newline"),
        ("alias echo=false; unset PATH; printf p", 0, "p"),
    ],
)
def test_any_command_ends_with_its_code_and_a_next_one_runs(
    any_shell: AgentRig, command: str, code: int, printed: str
) -> None:
    session = create(any_shell)
    said = perform(any_shell, session, command)
    assert (said["exitCode"], said["stdout"]) == (code, printed)
    assert perform(any_shell, session, "printf again")["stdout"] == "again"


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


def test_what_took_the_place_of_the_shell_runs_until_it_ends(
    any_shell: AgentRig, tmp_path: Path
) -> None:
    """As a supervisor does that a client starts so, and leaves running."""
    session = create(any_shell)
    script = f"echo $$ > {tmp_path}/p; exec sh -c 'echo up; echo problem >&2; sleep 60 & wait'"
    started = perform(any_shell, session, script, runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}"
    wanted = {"stdout": "up\n", "stderr": "problem\n"}
    eventually(
        lambda: (
            wanted.items()
            <= any_shell.request("GET", f"{path}/logs", headers=NEWEST).json().items()
        ),
        "it has printed",
    )
    assert "exitCode" not in any_shell.request("GET", path).json()
    os.kill(int((tmp_path / "p").read_text()), 15)
    eventually(lambda: any_shell.request("GET", path).json().get("exitCode") == 143, "ended")
    assert any_shell.request("DELETE", f"/process/session/{session}").status == 204


def test_a_command_of_a_megabyte_runs(any_shell: AgentRig) -> None:
    session = create(any_shell)
    said = perform(any_shell, session, f"printf %s {'y' * 1_000_000} | wc -c")
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


def test_a_follower_gets_every_byte_of_a_long_log_in_bounded_memory(agent: AgentRig) -> None:
    session = create(agent)
    size = 100_000_000
    before = agent.memory_kib("VmHWM")
    started = perform(agent, session, f"head -c {size} /dev/zero | tr '\\0' z", runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}/logs?follow=true"
    with socket_to(agent, path) as link:
        received = sum(m.count(b"z") for m in link if isinstance(m, bytes))
        assert link.close_code == 1000
    assert received == size
    assert agent.memory_kib("VmHWM") - before < 30_000


def test_of_a_long_log_the_end_is_kept_and_what_is_missing_is_said(agent: AgentRig) -> None:
    session = create(agent)
    done = perform(agent, session, "seq 12000000; echo problem >&2")
    assert done["stdout"].endswith("11999999\n12000000\n")
    path = f"/process/session/{session}/command/{done['cmdId']}/logs"
    raw = agent.request("GET", path, headers=MIDDLE).body
    assert 66_000_000 < len(raw) < 68_000_000
    first, _, rest = raw.partition(b"\n")
    assert first.startswith(b"\x02\x02\x02[")
    assert first.endswith(b" bytes of output left out here]")
    assert rest.startswith(b"\x01\x01\x01")
    assert rest.count(b"\n") == rest.count(b"\x01\x01\x01") + 1
    assert agent.memory_kib("VmHWM") < 60_000


def test_a_slow_follower_holds_up_neither_the_command_nor_another_follower(
    agent: AgentRig,
) -> None:
    session = create(agent)
    started = perform(agent, session, "read go; seq 3000000; echo done >&2", runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}"
    with agent.connect() as slow, socket_to(agent, f"{path}/logs?follow=true") as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"GET {path}/logs?follow=true HTTP/1.1\r\nHost: x\r\nX-Yurt-Secret: {SECRET}\r\n\r\n"
        slow.sendall(head.encode())
        before = agent.memory_kib("VmRSS")
        assert agent.request("POST", f"{path}/input", {"data": "go"}).status == 204
        assert sum(m.count(b"\n") for m in quick if isinstance(m, bytes)) == 3_000_001
        assert agent.request("GET", path).json()["exitCode"] == 0
        assert agent.memory_kib("VmRSS") - before < 20_000


def test_a_log_is_followed_from_its_start_also_after_the_end(agent: AgentRig) -> None:
    session = create(agent)
    done = perform(agent, session, "echo one; echo two")
    path = f"/process/session/{session}/command/{done['cmdId']}/logs"
    assert agent.request("GET", path, headers=OLD, follow=True).body == b"one\ntwo\n"


def test_a_follower_who_closes_is_let_go_at_once(agent: AgentRig) -> None:
    session = create(agent)
    started = perform(agent, session, "sleep 314", runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}/logs?follow=true"
    with socket_to(agent, path):
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert agent.request("DELETE", f"/process/session/{session}").status == 204


def test_streams_are_told_apart_though_lines_are_torn(agent: AgentRig) -> None:
    session = create(agent)
    script = "printf a; sleep 0.1; printf E >&2; sleep 0.1; printf 'b\\nc'; sleep 0.1; echo F >&2"
    done = perform(agent, session, script)
    assert (done["stdout"], done["stderr"]) == ("ab\nc", "EF\n")
    one, two = "\x01" * 3, "\x02" * 3
    assert done["output"] == f"{one}a{two}E{one}b\n{one}c{two}F\n"


def test_characters_and_bytes_that_are_none_come_through(agent: AgentRig) -> None:
    session = create(agent)
    done = perform(agent, session, r"printf '\303\251\377\r\n\000x'")
    assert done["stdout"] == "\xe9\ufffd\r\n\0x"


def test_what_a_command_leaves_running_goes_on_into_its_log(agent: AgentRig) -> None:
    session = create(agent)
    began = time.monotonic()
    done = perform(agent, session, "(sleep 0.5; echo late) & echo first")
    assert time.monotonic() - began < 0.5
    assert done["stdout"] == "first\n"
    path = f"/process/session/{session}/command/{done['cmdId']}/logs"
    eventually(lambda: agent.request("GET", path, headers=OLD).body == b"first\nlate\n", "late")


def test_commands_wait_for_each_other_and_sessions_do_not(agent: AgentRig) -> None:
    first, second = create(agent), create(agent)
    perform(agent, first, "sleep 1; V=set", runAsync=True)
    began = time.monotonic()
    assert perform(agent, second, "echo other")["stdout"] == "other\n"
    assert time.monotonic() - began < 1
    assert perform(agent, first, "echo $V")["stdout"] == "set\n"


def test_many_sessions_work_at_once(agent: AgentRig) -> None:
    def work(number: int) -> None:
        session = create(agent)
        perform(agent, session, f"N={number}")
        for _ in range(5):
            seen.append(perform(agent, session, "echo $N")["stdout"] == f"{number}\n")
        agent.request("DELETE", f"/process/session/{session}")

    seen: list[bool] = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 100


def test_much_input_is_taken_as_fast_as_it_is_read(agent: AgentRig) -> None:
    session = create(agent)
    started = perform(agent, session, "sleep 0.3; head -c 1000000 | wc -c", runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}"
    assert agent.request("POST", f"{path}/input", {"data": "i" * 999_999}).status == 204
    eventually(lambda: agent.request("GET", path).json().get("exitCode") == 0, "ended")
    logs = agent.request("GET", f"{path}/logs", headers=NEWEST).json()
    assert logs["stdout"].strip() == "1000000"


def test_input_for_a_command_that_waits_its_turn_waits_too(agent: AgentRig) -> None:
    session = create(agent)
    perform(agent, session, "sleep 0.4", runAsync=True)
    started = perform(agent, session, "read x; echo got $x", runAsync=True)
    path = f"/process/session/{session}/command/{started['cmdId']}"
    assert agent.request("POST", f"{path}/input", {"data": "it"}).status == 204
    logs = f"{path}/logs"
    eventually(lambda: agent.request("GET", logs, headers=OLD).body == b"got it\n", "printed")


def test_a_shell_starts_where_its_generation_of_client_expects_it(tmp_path: Path) -> None:
    with running_agent(workdir=str(tmp_path)) as rig:
        assert perform(rig, create(rig), "pwd")["stdout"] == f"{tmp_path}\n"
        home = pwd.getpwuid(os.getuid()).pw_dir
        assert perform(rig, create(rig, OLD), "pwd")["stdout"] == f"{home}\n"


def test_unknown_members_of_a_request_are_ignored(agent: AgentRig) -> None:
    session = create(agent)
    said = perform(agent, session, "pwd", cwd="/usr", timeout=1, suppressInputEcho=True)
    assert said["exitCode"] == 0


def test_deleting_a_session_answers_who_waits_for_its_command(agent: AgentRig) -> None:
    session = create(agent)
    answers: list[Any] = []
    route = f"/process/session/{session}/exec"
    body = {"command": "sleep 315"}
    waiter = threading.Thread(target=lambda: answers.append(agent.request("POST", route, body)))
    waiter.start()
    eventually(
        lambda: agent.request("GET", f"/process/session/{session}").json()["commands"], "runs"
    )
    assert agent.request("DELETE", f"/process/session/{session}").status == 204
    waiter.join()
    assert answers[0].status == 410
    assert agent.request("POST", route, body).status == 404


def test_deleting_a_session_asks_before_it_kills(agent: AgentRig, tmp_path: Path) -> None:
    session = create(agent)
    told = f'trap "echo bye > {tmp_path}/bye; exit" TERM; echo > {tmp_path}/up; sleep 316 & wait'
    polite = f"sh -c '{told}'"
    stubborn = f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/stubborn; sleep 317; sleep 317'"
    perform(agent, session, f"{polite} & {stubborn}", runAsync=True)
    eventually(lambda: (tmp_path / "up").exists() and (tmp_path / "stubborn").exists(), "both run")
    pid = int(eventually((tmp_path / "stubborn").read_text, "its pid is there"))
    assert agent.request("DELETE", f"/process/session/{session}").status == 204
    assert (tmp_path / "bye").read_text() == "bye\n"
    assert not lives(pid)


def test_a_deleted_session_leaves_no_descriptor(agent: AgentRig) -> None:
    descriptors = Path(f"/proc/{agent.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    session = create(agent)
    for number in range(30):
        perform(agent, session, f"seq 20000; echo {number}", runAsync=number % 2 == 0)
    perform(agent, session, "true")
    assert before + 30 < len(list(descriptors.iterdir())) < before + 40
    agent.request("DELETE", f"/process/session/{session}")
    eventually(lambda: len(list(descriptors.iterdir())) <= before, "all are closed")


def test_nothing_is_left_in_the_file_system_between_commands(agent: AgentRig) -> None:
    session = create(agent)
    during = perform(agent, session, "ls -d /dev/shm/.yurt-* /tmp/.yurt-* 2>/dev/null; true")
    ours = during["stdout"].split()
    assert ours
    perform(agent, session, "true")
    assert perform(agent, session, "true")["exitCode"] == 0
    mode = [path for path in ours if Path(path).exists() and Path(path).stat().st_mode & 0o077]
    assert not mode


def test_a_session_survives_the_removal_of_its_files(any_shell: AgentRig) -> None:
    session = create(any_shell)
    removed = perform(any_shell, session, "K=kept; rm -rf /dev/shm/.yurt-[0-9a-f]*; echo x")
    assert removed["stdout"] == "x\n"
    assert perform(any_shell, session, "echo again")["stdout"] == "again\n"


def test_the_longest_idle_shells_are_let_go_but_not_those_at_work(agent: AgentRig) -> None:
    at_work = create(agent)
    perform(agent, at_work, "KEPT=1; sleep 318 &")
    idle = create(agent)
    perform(agent, idle, "LOST=1")
    for _ in range(270):
        perform(agent, create(agent), "true")
    assert len(children(agent)) < 262
    assert perform(agent, idle, "echo [$LOST]")["stdout"] == "[]\n"
    assert perform(agent, at_work, "echo [$KEPT]")["stdout"] == "[1]\n"


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


def test_the_entrypoint_s_session_is_not_for_others(tmp_path: Path) -> None:
    with running_agent(entrypoint=["/bin/sh", "-c", "echo up; echo bad >&2; exit 3"]) as rig:
        path = "/process/session/entrypoint"
        eventually(
            lambda: rig.request("GET", path).json()["commands"][0].get("exitCode") == 3, "ended"
        )
        logs = rig.request("GET", f"{path}/logs", headers=NEWEST).json()
        assert (logs["stdout"], logs["stderr"]) == ("up\n", "bad\n")
        same = rig.request("GET", f"{path}/command/entrypoint_command/logs", headers=NEWEST)
        assert same.json() == logs
        assert rig.request("POST", f"{path}/exec", {"command": "true"}).status == 400
        assert rig.request("DELETE", path).status == 400
        assert rig.request("GET", "/process/session").json() == []
        assert rig.request("POST", "/process/session", {"sessionId": "entrypoint"}).status == 409


def test_an_entrypoint_that_cannot_be_started_says_so() -> None:
    with running_agent(entrypoint=["/no/such/program"]) as rig:
        path = "/process/session/entrypoint"
        assert rig.request("GET", path).json()["commands"][0]["exitCode"] == -1
        logs = rig.request("GET", f"{path}/logs", headers=NEWEST).json()
        assert logs["stderr"] == "/no/such/program: No such file or directory\n"


def test_without_an_entrypoint_its_session_has_no_command(agent: AgentRig) -> None:
    path = "/process/session/entrypoint"
    assert agent.request("GET", path).json() == {"sessionId": "entrypoint", "commands": []}
    logs = agent.request("GET", f"{path}/logs", headers=NEWEST).json()
    assert logs == {"output": "", "stdout": "", "stderr": ""}
    assert agent.request("GET", f"{path}/logs?follow=true", headers=OLD).body == b""
    assert agent.request("POST", f"{path}/exec", {"command": "true"}).status == 404


def test_a_stop_asks_everything_to_end_and_kills_what_does_not(tmp_path: Path) -> None:
    with running_agent() as rig:
        session = create(rig)
        polite = (
            f"trap 'echo bye > {tmp_path}/bye; exit' TERM; echo > {tmp_path}/up; sleep 319 & wait"
        )
        perform(rig, session, polite, runAsync=True)
        rig.request("POST", "/process/pty", {"id": "t"})
        eventually((tmp_path / "up").exists, "it runs")
        started = children(rig)
        began = time.monotonic()
        assert rig.stop() == 0
        assert time.monotonic() - began < 4  # nobody needed the whole grace
        assert (tmp_path / "bye").read_text() == "bye\n"
        assert not [pid for pid in started if lives(pid)]
