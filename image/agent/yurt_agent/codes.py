"""``POST /process/code-run``: a piece of Python, JavaScript or TypeScript.

The code is the interpreter's standard input, so that it may be of any length and imports are
looked for in the working directory. Python that may draw runs below a hook that describes charts.
"""

from __future__ import annotations

import json
import os
import re
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
"""Starts what describes a chart, up to the end of its line (the wire's word): no output."""

NOT_FOUND = 127
_DRAWING = re.compile(r"matplotlib|pylab|seaborn|pandas|plotnine")
_BOOT = (
    'exec(compile(open("/proc/self/fd/{}", encoding="utf-8").read(), "<charts>", "exec"),'
    ' {{"__name__": "<charts>", "mark": "{}"}})'
)
_LINE = re.compile(re.escape(ARTIFACT) + r"(.*)\n?")
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
    files = [memory_file(code)]
    try:
        if language == "python" and _DRAWING.search(code):
            files.append(memory_file(_hook()))
            interpreter = [interpreter[0], "-u", "-c", _BOOT.format(files[1], ARTIFACT)]
        command = [*interpreter, *arguments]
        workdir = request.identity.workdir
        task = Task(command, variables, workdir, seconds(body), files[0], files[1:])
        status, log = await run(task)
    finally:
        for file in files:
            os.close(file)
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


def _hook() -> str:
    with open(os.path.join(os.path.dirname(__file__), "chart_hook.py"), encoding="utf-8") as file:
        return file.read()


def _with_artifacts(status: int, printed: str) -> dict[str, object]:
    """Take what describes charts out of the output; it may follow a line without an end."""
    charts = []

    def take(found: re.Match[str]) -> str:
        chart = _chart(found[1])
        if chart is None:
            return found[0]
        charts.append(chart)
        return ""

    result = _LINE.sub(take, printed)
    return {"exitCode": status, "result": result, "artifacts": {"charts": charts}}


def _chart(text: str) -> object:
    """Return the chart; None if the user printed something else that begins like one."""
    try:
        artifact = json.loads(text)
        return artifact["value"] if artifact["type"] == "chart" else None
    except (ValueError, KeyError, TypeError):
        return None
