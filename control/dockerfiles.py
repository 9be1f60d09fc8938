"""Dockerfiles: read whole before anything is done, and what each instruction changes. Pure.

One stage, from one image. What is not supported is refused by its name and line.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]
from dockerfile_parse.util import (  # type: ignore[import-untyped]
    WordSplitter,
    extract_key_values,
)

from control.errors import InvalidError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 256 << 10
_MAX_STEPS = 100  # each may become a layer
_SHELL = ("/bin/sh", "-c")
# They say nothing that a sandbox would do otherwise.
_WITHOUT_EFFECT = {"LABEL", "EXPOSE", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK", "VOLUME"}
_CHANGES = {"ENV", "ARG", "WORKDIR", "USER", "ENTRYPOINT", "CMD", "SHELL"}
_STEPS = {"RUN"}
_INSTEAD = {
    "ADD": "use RUN with a program that fetches",
    "ONBUILD": "write it out",
    "COPY": "files cannot be sent here yet; upload them to a sandbox and make a snapshot of it",
}
_FROM = re.compile(r"(?P<image>\S+)(?:\s+(?i:AS)\s+[A-Za-z0-9._-]+)?")
_ODD_VARIABLE = re.compile(r"\$\{\w+[^}\w]")
_HERE_DOCUMENT = re.compile(r"<<-?['\"]?\w")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, on a line that counts from 1; a value may go on over several lines."""

    kind: str
    value: str
    line: int

    @property
    def text(self) -> str:
        """How users know it."""
        return f"{self.kind} {self.value}"

    @property
    def is_step(self) -> bool:
        """Tell whether it changes files."""
        return self.kind in _STEPS


@dataclass(frozen=True, slots=True)
class Recipe:
    """The image that a Dockerfile begins with, and what is done from there."""

    base: str
    instructions: tuple[Instruction, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Tell whether it is nothing but another image."""
        return all(each.kind in _WITHOUT_EFFECT for each in self.instructions)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What processes of an image get; ``args`` and ``shell`` are of the build only.

    ``has_own_cmd`` tells that ``cmd`` is not the base image's.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = _SHELL
    args: Mapping[str, str] = field(default_factory=dict)
    has_own_cmd: bool = False


def defaults_of(image: Mapping[str, Any]) -> Defaults:
    """Return the defaults of an image, as the nodes describe it."""
    return Defaults(
        env=image["env"],
        user=image["user"],
        workdir=image["workdir"],
        entrypoint=tuple(image["entrypoint"]),
        cmd=tuple(image["cmd"]),
    )


def fields_of(state: Defaults) -> dict[str, Any]:
    """Write defaults as the nodes describe them."""
    return {
        "env": dict(state.env),
        "user": state.user,
        "workdir": state.workdir,
        "entrypoint": list(state.entrypoint),
        "cmd": list(state.cmd),
    }


def read(text: str) -> Recipe:
    """Read a Dockerfile.

    Raises:
        InvalidError: it cannot be read.
        UnsupportedError: an instruction is not supported.
    """
    if len(text.encode()) > MAX_BYTES or "\0" in text:
        raise InvalidError(f"dockerfileContent must be text of at most {MAX_BYTES >> 10} KiB")
    first, *rest = _instructions(text) or [Instruction("", "", 1)]
    args: dict[str, str] = {}
    while first.kind == "ARG" and rest:
        args |= configured(Defaults(args=args), first).args
        first, *rest = rest
    if first.kind != "FROM":
        raise InvalidError(f"Dockerfile line {first.line}: it must begin with FROM")
    found = _FROM.fullmatch(_expanded(first, first.value, Defaults(args=args)))
    if found is None or found["image"].startswith("-"):
        raise UnsupportedError(f"Dockerfile line {first.line}: write FROM with an image only")
    for each in rest:
        _require_supported(each)
    _require_whole(text)
    if sum(each.kind in _STEPS for each in rest) > _MAX_STEPS:
        raise InvalidError(f"Dockerfile: more than {_MAX_STEPS} RUN instructions")
    state = Defaults()
    for each in rest:  # whatever is wrong is told before anything is done
        if each.is_step:
            words(each, state)
        state = configured(state, each)
    return Recipe(found["image"], tuple(rest))


def _instructions(text: str) -> list[Instruction]:
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()), env_replace=False)
    return [
        Instruction(each["instruction"], each["value"].strip(), each["startline"] + 1)
        for each in parser.structure
        if each["instruction"] != "COMMENT"
    ]


def _require_whole(text: str) -> None:
    """Refuse lines that the parser leaves out."""
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()), env_replace=False)
    covered = {
        number
        for each in parser.structure
        for number in range(each["startline"], each["endline"] + 1)
    }
    for number, line in enumerate(text.splitlines()):
        if line.strip() and number not in covered:
            raise InvalidError(f"Dockerfile line {number + 1}: {line.strip()[:80]!r} is not whole")


def _require_supported(instruction: Instruction) -> None:
    kind, where = instruction.kind, f"Dockerfile line {instruction.line}"
    if kind == "FROM":
        raise UnsupportedError(f"{where}: several stages (FROM) are not supported")
    if kind not in _WITHOUT_EFFECT | _CHANGES | _STEPS:
        instead = _INSTEAD.get(kind, "see the documentation for those that are")
        raise UnsupportedError(f"{where}: {kind[:40]} is not supported: {instead}")
    if _HERE_DOCUMENT.search(instruction.value) and kind in _STEPS:
        raise UnsupportedError(f"{where}: {kind} with a here-document is not supported")
    flag = re.match(r"--([a-z]+)", instruction.value)
    if kind in _STEPS and flag:
        raise UnsupportedError(f"{where}: {kind} --{flag[1]} is not supported")


def configured(state: Defaults, instruction: Instruction) -> Defaults:
    """Return what an instruction that runs nothing makes of the defaults.

    Raises:
        InvalidError: it cannot be read.
    """
    kind, value = instruction.kind, instruction.value
    match kind:
        case "ENV":
            return replace(state, env={**state.env, **_pairs(instruction, state)})
        case "ARG":
            name, _, usual = value.partition("=")
            known = state.args.get(name, _expanded(instruction, usual, state))
            return replace(state, args={**state.args, name: known})
        case "WORKDIR":
            path = _expanded(instruction, value, state)
            base = "" if path.startswith("/") else f"{state.workdir.rstrip('/')}/"
            return replace(state, workdir=base + path)
        case "USER":
            return replace(state, user=_expanded(instruction, value, state))
        case "ENTRYPOINT":
            cmd = state.cmd if state.has_own_cmd else ()
            return replace(state, entrypoint=words(instruction, state), cmd=cmd)
        case "CMD":
            return replace(state, cmd=words(instruction, state), has_own_cmd=True)
        case "SHELL":
            return replace(state, shell=words(instruction, state))
        case _:
            return state


def words(instruction: Instruction, state: Defaults) -> tuple[str, ...]:
    """Return the arguments of a command: a JSON list, or text for the shell.

    Raises:
        InvalidError: there is no command.
    """
    if instruction.value.startswith("["):
        try:
            listed = json.loads(instruction.value)
        except ValueError:
            listed = None  # a shell's own bracket
        if isinstance(listed, list) and all(isinstance(word, str) for word in listed):
            return tuple(listed)
    if not instruction.value:
        raise InvalidError(f"Dockerfile line {instruction.line}: {instruction.kind} of nothing")
    return (*state.shell, instruction.value)


def _pairs(instruction: Instruction, state: Defaults) -> dict[str, str]:
    _require_plain_variables(instruction, instruction.value)
    try:
        pairs = extract_key_values(
            env_replace=True,
            args=dict(state.args),
            envs=dict(state.env),
            instruction_value=instruction.value,
        )
    except ValueError as error:
        raise InvalidError(f"Dockerfile line {instruction.line}: {error}") from error
    return dict(pairs)


def _expanded(instruction: Instruction, text: str, state: Defaults) -> str:
    """Put in variables, and take quotes away."""
    _require_plain_variables(instruction, text)
    splitter = WordSplitter(text, args=dict(state.args), envs=dict(state.env))
    return str(splitter.dequote())


def _require_plain_variables(instruction: Instruction, text: str) -> None:
    if _ODD_VARIABLE.search(text):
        raise UnsupportedError(
            f"Dockerfile line {instruction.line}: of variables only $NAME and ${{NAME}} are "
            "supported"
        )
