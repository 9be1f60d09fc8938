"""``POST /process/code-run``: a piece of Python, JavaScript or TypeScript."""

from __future__ import annotations

import json
import os
import shutil

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError
from yurt_agent.execute import BODY_LIMIT, collect, memory_file
from yurt_agent.fields import number, text, text_map, texts
from yurt_agent.http import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ARTIFACT = "dtn_artifact_k39fd2:"
"""Starts a line that describes a chart (the wire's word); such lines are not output."""

NOT_FOUND = 127
_COMMANDS = {"python": ["python3", "-u", "-"], "javascript": ["node", "-"]}
_TYPESCRIPT = "typescript"


async def code_run(request: Request) -> Response:
    """Answer ``POST /process/code-run``."""
    body = await request.json(BODY_LIMIT)
    code = text(body, "code")
    language = text(body, "language", "python") or "python"
    if language not in {*_COMMANDS, _TYPESCRIPT}:
        known = ", ".join([*_COMMANDS, _TYPESCRIPT])
        raise BadRequestError(f"language {language!r} is not supported; use one of {known}")
    extra = text_map(body, "envs")
    spawn.check_environment(extra)
    environment = {**request.identity.environment, **extra}
    arguments, seconds = texts(body, "argv"), number(body, "timeout", 0)
    cwd = request.identity.workdir
    program = _COMMANDS.get(language, ["node"])[0]
    if shutil.which(program, path=environment.get("PATH")) is None:
        said = f"{program} is not in the PATH of this sandbox; use a snapshot that has it"
        return Response.json({"exitCode": NOT_FOUND, "result": said})
    if language == _TYPESCRIPT:
        status, printed = await _run_typescript(code, arguments, environment, cwd, seconds)
    else:
        source = memory_file(code)
        try:
            command = [*_COMMANDS[language], *arguments]
            status, printed = await collect(
                command, environment=environment, cwd=cwd, seconds=seconds, stdin=source
            )
        finally:
            os.close(source)
    return Response.json(_with_artifacts(status, printed))


async def _run_typescript(
    code: str, arguments: list[str], environment: Mapping[str, str], cwd: str, seconds: float
) -> tuple[int, str]:
    """Run a file: by ``ts-node`` where it is installed, else by node, which drops the types."""
    directory = f"/tmp/.yurt-{os.urandom(8).hex()}"
    path = f"{directory}/code.ts"
    try:
        _write(path, code)
        runner = ["node", "--experimental-strip-types", "--no-warnings", path]
        if shutil.which("ts-node", path=environment.get("PATH")):
            runner = ["ts-node", path]
        return await collect(
            [*runner, *arguments], environment=environment, cwd=cwd, seconds=seconds
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write(path: str, code: str) -> None:
    os.mkdir(os.path.dirname(path), 0o700)
    with open(path, "w", encoding="utf-8") as file:
        file.write(code)


def _with_artifacts(status: int, printed: str) -> dict[str, object]:
    """Take the lines that describe charts out of the output."""
    if ARTIFACT not in printed:
        return {"exitCode": status, "result": printed}
    kept, charts = [], []
    for line in printed.splitlines(keepends=True):
        if not line.startswith(ARTIFACT):
            kept.append(line)
            continue
        try:
            artifact = json.loads(line.removeprefix(ARTIFACT))
            charts.append(artifact["value"] if artifact["type"] == "chart" else artifact)
        except (ValueError, KeyError, TypeError):
            kept.append(line)  # printed by the user's own hand, not by a chart
    return {"exitCode": status, "result": "".join(kept), "artifacts": {"charts": charts}}
