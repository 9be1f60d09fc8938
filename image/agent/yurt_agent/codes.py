"""``POST /process/code-run``: a piece of Python, JavaScript or TypeScript.

The code is the interpreter's standard input, so that it may be of any length and imports are
looked for in the working directory.
"""

from __future__ import annotations

import json
import os
import shutil

from yurt_agent import spawn
from yurt_agent.answers import LIMIT, LongText, json_object
from yurt_agent.errors import BadRequestError
from yurt_agent.execute import BODY_LIMIT, Task, environment, memory_file, run, seconds
from yurt_agent.fields import text, texts
from yurt_agent.http import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

ARTIFACT = "dtn_artifact_k39fd2:"
"""Starts a line that describes a chart (the wire's word); such lines are not output."""

NOT_FOUND = 127
_TRANSFORM = ["--experimental-transform-types", "--disable-warning=ExperimentalWarning"]
_typescript: dict[str, list[str]] = {}


async def code_run(request: Request) -> Response:
    """Answer ``POST /process/code-run``."""
    body = await request.json(BODY_LIMIT)
    code = spawn.check_text("code", text(body, "code"))
    language = text(body, "language", "python") or "python"
    if language not in _LANGUAGES:
        known = ", ".join(_LANGUAGES)
        raise BadRequestError(f"language {language!r} is not supported; use one of {known}")
    arguments = [spawn.check_text("argv", word) for word in texts(body, "argv")]
    variables = environment(request, body)
    interpreter = await _LANGUAGES[language](variables)
    if not interpreter:
        said = f"{language}: no interpreter in the PATH of this sandbox; use a snapshot with one\n"
        return Response.json({"exitCode": NOT_FOUND, "result": said})
    source = memory_file(code)
    try:
        command = [*interpreter, *arguments]
        workdir = request.identity.workdir
        status, log = await run(Task(command, variables, workdir, seconds(body), source))
    finally:
        os.close(source)
    printed = b"".join(log.pieces(LIMIT))
    if ARTIFACT.encode() in printed:
        return Response.json(_with_artifacts(status, printed.decode("utf-8", "replace")))
    result = LongText(iter([printed]))
    return json_object({"exitCode": status, "result": result}, len(printed))


async def _python(variables: Mapping[str, str]) -> list[str]:
    words = python_words(variables)
    return [*words, "-u", "-"] if words else []


def python_words(variables: Mapping[str, str]) -> list[str]:
    """Return the words that start the image's Python; none if it has none."""
    found = _which("python3", variables) or _which("python", variables)
    return [found] if found else []


async def _javascript(variables: Mapping[str, str]) -> list[str]:
    found = _which("node", variables)
    return [found, "-"] if found else []


async def _types(variables: Mapping[str, str]) -> list[str]:
    """Choose what runs TypeScript: node where it can by itself, else ``ts-node``.

    Node's own way is tried first: it starts ten times as fast and fetches nothing.
    """
    node = _which("node", variables)
    if not node:
        return []
    if node not in _typescript:
        probe = Task([node, *_TRANSFORM, "-e", "0"], variables, "/", seconds=10)
        code, _ = await run(probe)
        _typescript[node] = [node, *_TRANSFORM, "-"] if code == 0 else []
    options = ["-O", '{"module":"CommonJS"}', "-"]
    if _typescript[node]:
        return _typescript[node]
    if found := _which("ts-node", variables):
        return [found, *options]
    found = _which("npx", variables)
    return [found, "--yes", "ts-node", *options] if found else []


def _which(name: str, variables: Mapping[str, str]) -> str:
    return shutil.which(name, path=variables.get("PATH", "")) or ""


_LANGUAGES: dict[str, Callable[[Mapping[str, str]], Awaitable[list[str]]]] = {
    "python": _python,
    "javascript": _javascript,
    "typescript": _types,
}


def _with_artifacts(status: int, printed: str) -> dict[str, object]:
    """Take the lines that describe charts out of the output."""
    kept, charts = [], []
    for line in printed.split("\n"):
        chart = _chart(line) if line.startswith(ARTIFACT) else None
        if chart is None:
            kept.append(line)
        else:
            charts.append(chart)
    return {"exitCode": status, "result": "\n".join(kept), "artifacts": {"charts": charts}}


def _chart(line: str) -> object:
    """Return the chart; None if the user printed something else that begins like one."""
    try:
        artifact = json.loads(line.removeprefix(ARTIFACT))
        return artifact["value"] if artifact["type"] == "chart" else None
    except (ValueError, KeyError, TypeError):
        return None
