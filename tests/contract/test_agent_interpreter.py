"""Python that remembers, by a real agent with the machine's python3."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.support.agent_calls import children, lives, socket_to
from tests.support.agent_rig import AgentRig, running_agent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentRig]:
    work = str(tmp_path_factory.mktemp("work"))
    with running_agent(env={"PATH": os.environ["PATH"], "GREETING": "hi"}, workdir=work) as rig:
        yield rig


class Ran(NamedTuple):
    """What one piece of code gave."""

    stdout: str
    stderr: str
    error: dict[str, str] | None
    said: list[str]
    code: int
    reason: str


@contextmanager
def asked(agent: AgentRig, code: str, **more: Any) -> Iterator[ClientConnection]:
    with socket_to(agent, "/process/interpreter/execute") as link:
        link.send(json.dumps({"code": code, **more}))
        yield link


def read(link: ClientConnection) -> Ran:
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
    error, said = None, []
    with suppress(ConnectionClosedError):  # any code but 1000
        for raw in link:
            message = json.loads(raw)
            kind = message.pop("type")
            if kind == "error":
                error = message
            elif kind == "control":
                said.append(message["text"])
            else:
                texts[kind].append(message["text"])
    assert link.close_code is not None
    out, err = "".join(texts["stdout"]), "".join(texts["stderr"])
    return Ran(out, err, error, said, link.close_code, link.close_reason or "")


def run(agent: AgentRig, code: str, **more: Any) -> Ran:
    with asked(agent, code, **more) as link:
        return read(link)


def printed(agent: AgentRig, code: str, **more: Any) -> str:
    ran = run(agent, code, **more)
    assert (ran.error, ran.said, ran.code) == (None, ["completed"], 1000)
    return ran.stdout


def context(agent: AgentRig, **body: Any) -> str:
    answer = agent.request("POST", "/process/interpreter/context", body)
    assert answer.status == 200, answer.body
    return str(answer.json()["id"])


def test_what_one_piece_defines_the_next_one_knows(agent: AgentRig) -> None:
    printed(agent, "import math\nx = 20\ndef double(n):\n    return 2 * n")
    assert printed(agent, "print(double(x) + 2, math.floor(1.5))") == "42 1\n"
    pickled = "import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is C)"
    assert printed(agent, pickled) == "True\n"


def test_both_streams_come_back_each_as_its_own(agent: AgentRig) -> None:
    code = (
        "import sys, os\nprint('out ü 🦌')\nprint('err', file=sys.stderr)\nos.system('echo child')"
    )
    ran = run(agent, code)
    assert (ran.stdout, ran.stderr) == ("out ü 🦌\nchild\n", "err\n")
    assert printed(agent, "print('\\udc80')") == "\\udc80\n"
    # Bytes of one letter in two writes are one letter.
    split = "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.2); os.write(1, b'\\xbc')"
    assert printed(agent, split) == "ü"


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("1/0", "ZeroDivisionError", "division by zero"),
        ("x = (", "SyntaxError", "was never closed"),
        ("class Odd(Exception): pass\nraise Odd('why')", "Odd", "why"),
        ("input()", "EOFError", "EOF"),
        ("import sys; sys.exit(3)", "SystemExit", "3"),
        ("exit()", "SystemExit", ""),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("def f(): f()\nf()", "RecursionError", "maximum recursion depth"),
    ],
)
def test_an_error_has_its_name_and_the_interpreter_lives_on(
    agent: AgentRig, code: str, name: str, value: str
) -> None:
    kept = printed(agent, "import os; kept = os.getpid(); print(kept)")
    ran = run(agent, code)
    assert ran.error is not None
    assert ran.error["name"] == name
    assert value in ran.error["value"]
    assert (ran.said, ran.code) == (["completed"], 1000)
    assert printed(agent, "print(kept)") == kept


def test_a_traceback_shows_the_code_and_nothing_of_ours(agent: AgentRig) -> None:
    printed(agent, "def fails():\n    return [][1]  # here")
    error = run(agent, "\nfails()").error
    assert error is not None
    assert "line 2, in <module>" in error["traceback"]
    assert "return [][1]  # here" in error["traceback"]
    assert error["traceback"].endswith("IndexError: list index out of range\n")
    assert "<interpreter>" not in error["traceback"]


def test_an_error_that_is_longer_than_anything_is_cut(agent: AgentRig) -> None:
    error = run(agent, "raise ValueError('x' * 50_000_000)").error
    assert error is not None
    assert len(error["value"]) == 64 << 10
    broken = "class E(Exception):\n    def __str__(self): raise OSError\nraise E"
    assert (run(agent, broken).error or {})["name"] == "E"


def test_contexts_know_nothing_of_each_other(agent: AgentRig, tmp_path: Path) -> None:
    one, two = context(agent), context(agent, cwd=str(tmp_path), language="python")
    printed(agent, "secret = 1", contextId=one)
    for other in ({"contextId": two}, {}):
        assert (run(agent, "secret", **other).error or {})["name"] == "NameError"
    assert printed(agent, "import os; print(os.getcwd())", contextId=two) == f"{tmp_path}\n"
    listed = agent.request("GET", "/process/interpreter/context").json()["contexts"]
    shown = {item["id"]: item for item in listed}
    assert {one, two} <= set(shown)
    assert "default" not in shown
    created = shown[two].pop("createdAt")
    assert created.endswith("Z")
    assert shown[two] == {"id": two, "cwd": str(tmp_path), "active": True, "language": "python"}


def test_a_deleted_context_is_gone_with_all_that_it_started(agent: AgentRig) -> None:
    name = context(agent)
    start = "import subprocess; print(subprocess.Popen(['sleep', '300']).pid)"
    pid = int(printed(agent, start, contextId=name))
    path = f"/process/interpreter/context/{name}"
    answer = agent.request("DELETE", path)
    assert (answer.status, name in answer.json()["message"]) == (200, True)
    assert not lives(pid)
    assert agent.request("DELETE", path).status == 404
    ran = run(agent, "1", contextId=name)
    assert (ran.code, ran.said) == (1008, [])
    assert "not found" in ran.reason


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[]",
        "{}",
        '{"code": 1}',
        '{"code": "1", "envs": {"A-B": "x"}}',
        '{"code": "1", "timeout": "soon"}',
        '{"code": "1", "contextId": "nobody"}',
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(agent: AgentRig, message: str) -> None:
    with socket_to(agent, "/process/interpreter/execute") as link:
        link.send(message)
        ran = read(link)
    assert ran.code == 1008
    assert ran.reason


def test_bad_contexts_are_refused(agent: AgentRig) -> None:
    for body in ({"language": "cobol"}, {"cwd": "/nowhere"}, {"cwd": 1}):
        assert agent.request("POST", "/process/interpreter/context", body).status == 400
    assert agent.request("GET", "/process/interpreter/execute").status == 426


def test_variables_hold_for_their_piece_only(agent: AgentRig) -> None:
    show = "import os; print(os.environ['GREETING'], os.environ.get('MORE'))"
    envs = {"GREETING": "other ü", "MORE": ""}
    assert printed(agent, show, envs=envs) == "other ü \n"
    assert printed(agent, show) == "hi None\n"
    child = "import subprocess; subprocess.run(['sh', '-c', 'echo $MORE'])"
    assert printed(agent, child, envs={"MORE": "for children"}) == "for children\n"


def test_a_time_out_interrupts_and_what_was_known_stays(agent: AgentRig) -> None:
    code = "import time\nkept = 'yes'\nprint('before')\ntime.sleep(300)"
    ran = run(agent, code, timeout=1)
    assert (ran.code, ran.said, ran.stdout) == (4008, ["interrupted"], "before\n")
    assert printed(agent, "print(kept)") == "yes\n"


def test_code_that_will_not_be_interrupted_is_killed(agent: AgentRig) -> None:
    name = context(agent)
    code = (
        "import os, time\nprint(os.getpid())\n"
        "while True:\n    try: time.sleep(300)\n    except KeyboardInterrupt: pass"
    )
    ran = run(agent, code, timeout=1, contextId=name)
    assert ran.code == 4008
    assert not lives(int(ran.stdout))
    assert printed(agent, "print('anew')", contextId=name) == "anew\n"


def test_a_client_that_leaves_interrupts_its_code(agent: AgentRig) -> None:
    name = context(agent)
    with asked(agent, "import time\nprint('on')\ntime.sleep(300)", contextId=name) as link:
        assert json.loads(link.recv(timeout=20))["text"] == "on\n"
    assert printed(agent, "print('free')", contextId=name) == "free\n"


def test_an_interpreter_that_dies_says_so_and_the_next_piece_gets_a_new_one(
    agent: AgentRig,
) -> None:
    name = context(agent)
    ran = run(agent, "kept = 1\nprint('last')\nimport os; os._exit(7)", contextId=name)
    assert ran.error is not None
    assert "exit code 7" in ran.error["value"]
    assert (ran.stdout, ran.code) == ("last\n", 1000)
    assert (run(agent, "kept", contextId=name).error or {})["name"] == "NameError"
    # Between two pieces, too.
    pid = int(printed(agent, "import os; print(os.getpid())", contextId=name))
    os.kill(pid, 9)
    eventually(lambda: pid not in children(agent), "the end of the interpreter")
    assert printed(agent, "print(1)", contextId=name) == "1\n"


def test_pieces_of_one_context_take_turns(agent: AgentRig) -> None:
    name = context(agent)
    printed(agent, "seen = []", contextId=name)
    code = "print('a')\nimport time\ntime.sleep(1)\nseen.append(1)"
    with asked(agent, code, contextId=name) as first:
        assert json.loads(first.recv(timeout=20))["text"].startswith("a")
        assert printed(agent, "print(seen)", contextId=name) == "[1]\n"
        assert read(first).code == 1000


def test_a_slow_client_holds_the_code_up_and_gets_every_byte(agent: AgentRig) -> None:
    name = context(agent)
    count = 50 << 20
    before = agent.memory_kib("VmRSS")
    code = f"for n in range({count >> 10}):\n    print('x' * 1023)"
    with asked(agent, code, contextId=name) as link:
        first = json.loads(link.recv(timeout=20))["text"]
        # All the others are served meanwhile.
        assert agent.request("GET", "/version").status == 200
        assert printed(agent, "print('other')") == "other\n"
        ran = read(link)
    assert len(first) + len(ran.stdout) == count
    assert agent.memory_kib("VmHWM") - before < 32 << 10


def test_a_client_that_leaves_amid_much_output_frees_the_context(agent: AgentRig) -> None:
    name = context(agent)
    pid = int(printed(agent, "import os; print(os.getpid())", contextId=name))
    with asked(agent, "while True: print('x' * 1000)", contextId=name) as link:
        link.recv(timeout=20)
        link.socket.shutdown(socket.SHUT_RDWR)
    assert printed(agent, "import os; print(os.getpid())", contextId=name) == f"{pid}\n"


def test_threads_that_go_on_printing_spoil_nothing(agent: AgentRig) -> None:
    name = context(agent)
    code = (
        "import threading, sys\nstop = threading.Event()\ncount = 0\n"
        "def noise():\n    global count\n    while not stop.is_set():\n"
        "        sys.stdout.write('.' * 100 + '\\n'); count += 1\n"
        "thread = threading.Thread(target=noise); thread.start()"
    )
    assert run(agent, code, contextId=name).code == 1000
    ended = (
        "import time\nbefore = count\nwhile count == before: time.sleep(0.01)\n"
        "stop.set(); thread.join()"
    )
    assert run(agent, ended, contextId=name).error is None
    assert printed(agent, "print('quiet')", contextId=name) == "quiet\n"


def test_a_forked_child_that_falls_out_of_the_code_takes_no_orders(agent: AgentRig) -> None:
    name = context(agent)
    printed(agent, "import os\nchild = os.fork()", contextId=name)
    alone = "print(os.waitpid(child, 0)[1])"
    assert printed(agent, alone, contextId=name) == "0\n"


def test_what_the_code_does_to_its_streams_ends_with_the_interpreter(agent: AgentRig) -> None:
    name = context(agent)
    assert (
        run(agent, "import sys; sys.stdout.close(); sys.stderr = None", contextId=name).code == 1000
    )
    assert run(agent, "import os; os.write(1, b'raw')", contextId=name).stdout == "raw"


def test_without_python_the_remedy_is_told(tmp_path: Path) -> None:
    with running_agent(env={"PATH": str(tmp_path)}) as agent:
        answer = agent.request("POST", "/process/interpreter/context", {})
        assert (answer.status, "python3" in answer.json()["message"]) == (400, True)
        ran = run(agent, "1")
        assert (ran.code, "python3" in ran.reason) == (1008, True)


def test_nothing_of_it_is_left_when_the_sandbox_stops() -> None:
    with running_agent(env={"PATH": os.environ["PATH"]}) as agent:
        pid = int(printed(agent, "import os; print(os.getpid())"))
        stopping = threading.Thread(target=run, args=(agent, "import time; time.sleep(300)"))
        stopping.start()
        eventually(lambda: "sleep" in _wchan(pid), "the code to sleep")
        assert agent.stop() == 0
        stopping.join(20)
        assert not lives(pid)


def _wchan(pid: int) -> str:
    """Return what it waits in, by the kernel's name."""
    return Path(f"/proc/{pid}/wchan").read_text()
