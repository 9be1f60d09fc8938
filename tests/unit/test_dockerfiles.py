"""Dockerfiles: what is read from them, and what is refused before anything is done."""

from __future__ import annotations

import pytest

from control.dockerfiles import Defaults, Instruction, configured, fields_of, read, words
from control.errors import InvalidError, UnsupportedError

pytestmark = pytest.mark.unit

WHOLE = """# how an SDK writes it
ARG V=3.12
FROM python:${V}-slim AS base

RUN apt-get update && \\
    # a comment between
    apt-get install -y curl
ENV A='b c' PATH=/x:$PATH
ENV OLD style value
LABEL a=b
EXPOSE 80
WORKDIR "/a b"
WORKDIR c
USER $OLD
ENTRYPOINT ["a", "b c"]
CMD echo hi
"""


def defaults(text: str, base: Defaults | None = None) -> Defaults:
    state = base or Defaults()
    for instruction in read(text).instructions:
        if not instruction.is_step:
            state = configured(state, instruction)
    return state


def test_a_dockerfile_is_read_whole() -> None:
    recipe = read(WHOLE)
    assert recipe.base == "python:3.12-slim"
    run = recipe.instructions[0]
    assert (run.kind, run.line) == ("RUN", 5)
    assert words(run, Defaults()) == (
        *("/bin/sh", "-c"),
        "apt-get update &&     apt-get install -y curl",
    )
    made = fields_of(defaults(WHOLE, Defaults(env={"PATH": "/bin"}, cmd=("python3",))))
    assert made == {
        "env": {"PATH": "/x:/bin", "A": "b c", "OLD": "style value"},
        "user": "style value",
        "workdir": "/a b/c",
        "entrypoint": ["a", "b c"],
        "cmd": ["/bin/sh", "-c", "echo hi"],
    }


def test_another_entrypoint_ends_the_base_image_s_command() -> None:
    base = Defaults(entrypoint=("init",), cmd=("python3",))
    assert fields_of(defaults("FROM a", base))["cmd"] == ["python3"]
    assert fields_of(defaults('FROM a\nENTRYPOINT ["x"]', base))["cmd"] == []
    kept = fields_of(defaults('FROM a\nCMD ["y"]\nENTRYPOINT ["x"]', base))
    assert (kept["entrypoint"], kept["cmd"]) == (["x"], ["y"])


def test_a_shell_and_arguments_of_the_build_hold_for_what_follows() -> None:
    state = defaults('FROM a\nSHELL ["/bin/bash", "-lc"]\nARG WHO=me\nENV NAME=${WHO}')
    assert words(Instruction("RUN", "ls", 1), state) == ("/bin/bash", "-lc", "ls")
    assert words(Instruction("RUN", '["ls", "-l"]', 1), state) == ("ls", "-l")
    assert words(Instruction("RUN", "[ -e /x ]", 1), state)[-1] == "[ -e /x ]"
    assert fields_of(state)["env"] == {"NAME": "me"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with FROM"),
        ("RUN x", "line 1: it must begin with FROM"),
        ("FROM a\nRUN", "line 2: 'RUN' is not whole"),
        ("FROM a\nRUN x \\", "is not whole"),
        ("FROM a\nENV A=b c", "line 2: Syntax error"),
        ("FROM a\n" + "RUN x\n" * 101, "more than 100"),
        ("FROM a\n# " + "x" * 300_000, "at most 256 KiB"),
        ("FROM a\0", "must be text"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_line(text: str, reason: str) -> None:
    with pytest.raises(InvalidError) as refused:
        read(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FROM a\nADD x y", "line 2: ADD is not supported: use RUN"),
        ("FROM a\nONBUILD RUN x", "ONBUILD is not supported"),
        ("FROM a\nNONSENSE x", "NONSENSE is not supported"),
        ("FROM a AS b\nFROM c", "several stages"),
        ("FROM --platform=linux/arm64 a", "FROM with an image only"),
        ("FROM a\nRUN --mount=type=cache x", "RUN --mount is not supported"),
        ("FROM a\nCOPY x y", "COPY is not supported: files cannot be sent here yet"),
        ("FROM a\nENV A=${B:-c}", "only $NAME and ${NAME}"),
        ("FROM a\nRUN cat <<EOF\nx\nEOF", "here-document"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(text: str, reason: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        read(text)
    assert reason in str(refused.value)
