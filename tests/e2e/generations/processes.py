"""Commands, sessions, terminals and the interpreter."""

from __future__ import annotations

import inspect
from typing import Any

from tests.e2e.generations.visit import (
    Visit,
    WrongError,
    all_of,
    becomes,
    call,
    expect,
    got,
    raises,
)


@call("process.exec")
async def exec_(visit: Visit) -> None:
    process = visit.sandbox.process
    command = 'printf "%s|${EMPTY-unset}|$GIVEN" "$MARK"'
    answer = await got(process.exec(command, env={"GIVEN": "é $(id) `id`"}))
    wanted = f"{visit.mark} '\"$HOME||é $(id) `id`"
    expect("answer", (answer.exit_code, answer.result.rstrip("\n")), (0, wanted))
    answer = await got(process.exec("cat <<END | tr a-z A-Z; pwd; exit 7\nword\nEND", cwd="/tmp"))
    expect("here-document", (answer.exit_code, answer.result.split()), (7, ["WORD", "/tmp"]))
    timeouts = ("timeout", "timed out")
    try:
        await got(process.exec("sleep 30", timeout=1))
    except Exception as error:
        if not any(word in f"{type(error).__name__} {error}".lower() for word in timeouts):
            raise
    else:
        raise WrongError("no timeout was raised")


@call("process.code_run")
async def code_run(visit: Visit) -> None:
    answer = await got(visit.sandbox.process.code_run("print(6 * 7, 'ü')"))
    expect("answer", (answer.exit_code, answer.result.strip()), (0, "42 ü"))


def session(visit: Visit) -> str:
    return f"session-{visit.mark}"


async def in_session(visit: Visit, command: str, **more: Any) -> Any:
    request = visit.made("SessionExecuteRequest", command=command, **more)
    return await got(visit.sandbox.process.execute_session_command(session(visit), request))


def said(answer: Any) -> list[str]:
    """Read the words of stdout: a field of its own, else text with or without prefix bytes."""
    text = answer if isinstance(answer, str) else getattr(answer, "stdout", None) or answer.output
    return str(text or "").replace("\x01", "").replace("\x02", "").split()


@call("process.create_session")
async def create_session(visit: Visit) -> None:
    await got(visit.sandbox.process.create_session(session(visit)))
    await raises("", lambda: visit.sandbox.process.create_session(session(visit)))


@call("process.execute_session_command")
async def execute_session_command(visit: Visit) -> None:
    await in_session(visit, f"cd /tmp && export KEPT={visit.mark}")
    answer = await in_session(visit, "echo $KEPT $PWD; (exit 3)")
    expect("state is kept", (answer.exit_code, said(answer)), (3, [visit.mark, "/tmp"]))


@call("process.get_session_command", "process.get_session_command_logs_async")
async def follow(visit: Visit) -> None:
    command = "for n in 1 2 3; do echo line-$n; sleep 0.2; done; echo late >&2"
    answer = await in_session(visit, command, run_async=True)
    process, heard = visit.sandbox.process, list[str]()
    logs = process.get_session_command_logs_async
    # One callback for both streams, or one for each.
    callbacks = [heard.append] * (len(inspect.signature(logs).parameters) - 2)
    await got(logs(session(visit), answer.cmd_id, *callbacks))
    expect("followed", said("".join(heard)), ["line-1", "line-2", "line-3", "late"])

    async def exit_code() -> Any:
        return (await got(process.get_session_command(session(visit), answer.cmd_id))).exit_code

    await becomes("exit code", exit_code, 0)


@call("process.get_session_command_logs")
async def get_session_command_logs(visit: Visit) -> None:
    answer = await in_session(visit, "echo out; echo err >&2")
    logs = await got(visit.sandbox.process.get_session_command_logs(session(visit), answer.cmd_id))
    if isinstance(logs, str):
        expect("logs", sorted(said(logs)), ["err", "out"])
    else:
        expect("logs", (logs.stdout.strip(), logs.stderr.strip()), ("out", "err"))


@call("process.send_session_command_input")
async def send_session_command_input(visit: Visit) -> None:
    process = visit.sandbox.process
    answer = await in_session(visit, "read line && echo got:$line", run_async=True)
    await got(process.send_session_command_input(session(visit), answer.cmd_id, visit.mark))

    async def heard() -> bool:
        logs = await got(process.get_session_command_logs(session(visit), answer.cmd_id))
        return f"got:{visit.mark}" in said(logs)

    await becomes("it heard", heard, wanted=True)


@call("process.get_session", "process.list_sessions", "process.delete_session")
async def sessions(visit: Visit) -> None:
    process = visit.sandbox.process
    shown = await got(process.get_session(session(visit)))
    expect("session", (shown.session_id, len(shown.commands) > 1), (session(visit), True))
    listed = [one.session_id for one in await got(process.list_sessions())]
    expect("listed", listed.count(session(visit)), 1)
    await got(process.delete_session(session(visit)))
    listed = [one.session_id for one in await got(process.list_sessions())]
    expect("listed after it was deleted", listed.count(session(visit)), 0)


@call(
    "process.get_entrypoint_session",
    "process.get_entrypoint_logs",
    "process.get_entrypoint_logs_async",
)
async def entrypoint(visit: Visit) -> None:
    process = visit.sandbox.process
    shown = await got(process.get_entrypoint_session())
    expect("id", shown.session_id, "entrypoint")
    logs = await got(process.get_entrypoint_logs())
    expect("logs", isinstance(logs.output, str), True)
    # The default snapshot has no entrypoint, so there is nothing to wait for.
    heard = list[str]()
    await got(process.get_entrypoint_logs_async(heard.append, heard.append))
    expect("followed", said("".join(heard)), said(logs))


def with_output(create: Any, heard: list[bytes]) -> tuple[dict[str, Any], list[Any]]:
    """Say where a terminal's output is taken: when it is opened, or when it is waited for."""
    if "on_data" in inspect.signature(create).parameters:
        return {"on_data": heard.append}, []
    return {}, [heard.append]


@call("process.create_pty_session")
async def create_pty_session(visit: Visit) -> None:
    heard = list[bytes]()
    create = visit.sandbox.process.create_pty_session
    opening, waiting = with_output(create, heard)
    size = visit.made("PtySize", cols=91, rows=33)
    envs = {"GIVEN": visit.mark}
    handle = await got(create(id=f"pty-{visit.mark}", pty_size=size, envs=envs, **opening))
    await got(handle.send_input("stty size; echo =$GIVEN=; exit 5\n"))
    result = await got(handle.wait(*waiting))
    text = b"".join(heard).decode()
    expect("size and environment", ("33 91" in text, f"={visit.mark}=" in text), (True, True))
    expect("exit code", result.exit_code, 5)


@call(
    "process.connect_pty_session",
    "process.get_pty_session_info",
    "process.kill_pty_session",
    "process.list_pty_sessions",
    "process.resize_pty_session",
)
async def ptys(visit: Visit) -> None:
    process, name, heard = visit.sandbox.process, f"second-{visit.mark}", list[bytes]()
    opening, _ = with_output(process.create_pty_session, [])
    first = await got(process.create_pty_session(id=name, **opening))
    await got(first.disconnect())
    expect("listed", [one.id for one in await all_of(process.list_pty_sessions())], [name])
    resized = await got(process.resize_pty_session(name, visit.made("PtySize", cols=120, rows=50)))
    shown = await got(process.get_pty_session_info(name))
    expect("sizes", (resized.cols, resized.rows, shown.cols, shown.rows), (120, 50, 120, 50))
    opening, waiting = with_output(process.connect_pty_session, heard)
    second = await got(process.connect_pty_session(name, **opening))
    await got(second.send_input("stty size; exit 6\n"))
    expect("exit code", (await got(second.wait(*waiting))).exit_code, 6)
    expect("its size is told", b"50 120" in b"".join(heard), True)
    third = f"third-{visit.mark}"
    opening, _ = with_output(process.create_pty_session, [])
    handle = await got(process.create_pty_session(id=third, **opening))
    await got(process.kill_pty_session(third))
    await got(handle.disconnect())

    async def active() -> list[str]:
        return [one.id for one in await all_of(process.list_pty_sessions()) if one.active]

    await becomes("active ones", active, [])


@call("code_interpreter.run_code")
async def run_code(visit: Visit) -> None:
    interpreter = visit.sandbox.code_interpreter
    await got(interpreter.run_code("x = 20"))
    result = await got(interpreter.run_code("print(x + 1)\nraise KeyError('gone')"))
    expect("result", (result.stdout.strip(), result.error.name), ("21", "KeyError"))


@call(
    "code_interpreter.create_context",
    "code_interpreter.delete_context",
    "code_interpreter.list_contexts",
)
async def contexts(visit: Visit) -> None:
    interpreter = visit.sandbox.code_interpreter
    context = await got(interpreter.create_context(cwd="/tmp"))
    code = "import os; print('x' in globals(), os.getcwd())"
    result = await got(interpreter.run_code(code, context=context))
    expect("its own variables", result.stdout.split(), ["False", "/tmp"])
    listed = [one.id for one in await got(interpreter.list_contexts())]
    expect("listed", listed.count(context.id), 1)
    await got(interpreter.delete_context(context))
    expect("left", [one.id for one in await got(interpreter.list_contexts())], [])
