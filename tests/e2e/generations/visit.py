"""Makes every call of one Python SDK, whatever its generation, and says how each went.

Runs in the SDK's own environment. The last line that it prints is one JSON object with every public
call that this generation has: "works", "refused: <why>", or what went wrong. A call that no check
makes is "untried", so a new SDK cannot add one unseen. One table of checks serves all generations,
with and without await.

    python -m tests.e2e.generations.visit [--async]
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import secrets
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WORKS, REFUSED, UNTRIED = "works", "refused: ", "untried"
HOME = "/home/daytona"
SECONDS = 90  # of one check
_LONGEST = 500

# Modules with checks, in the order in which they are made: the first creates, the last deletes.
MODULES = ("sandboxes", "processes", "files", "git", "services", "life")
# Not tried: what is no call, but of pydantic; what needs a registry (as ``test_snapshots.py`` has).
NOT_TRIED = {"sandbox.model_post_init", "snapshot.create"}


class WrongError(Exception):
    """What came back is not what the contract says."""


class RefusedError(Exception):
    """The server says, in the expected words, that it does not do this."""


@dataclass
class Visit:
    """One SDK and the sandbox that it visits."""

    sdk: Any
    client: Any
    mark: str = field(default_factory=lambda: secrets.token_hex(6))
    sandbox: Any = None
    # What one check leaves for the next, such as a language server.
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return f"/tmp/calls-{self.mark}"

    def made(self, name: str, **fields: Any) -> Any:
        """Make one of the SDK's own objects."""
        return getattr(self.sdk, name)(**fields)

    async def run(self, command: str) -> str:
        """Run a shell command in the sandbox and return what it says."""
        return str((await got(self.sandbox.process.exec(command))).result).strip()

    def places(self) -> dict[str, Any]:
        """Return what has calls, by the first part of their names; only what there is."""
        found = {"": self.client, "sandbox": self.sandbox, "lsp": self.kept.get("lsp")}
        found |= {name: getattr(self.client, name, None) for name in ("volume", "snapshot")}
        of_sandbox = ("process", "fs", "git", "code_interpreter")
        found |= {name: getattr(self.sandbox, name, None) for name in of_sandbox}
        return {name: thing for name, thing in found.items() if thing is not None}

    def calls(self) -> set[str]:
        """Name every public call of this generation, as ``process.exec``."""
        return {
            f"{place}.{name}".lstrip(".")
            for place, thing in self.places().items()
            for its in type(thing).__mro__
            if its.__module__.partition(".")[0] == self.sdk.__name__
            for name, value in vars(its).items()
            if inspect.isfunction(value) and not name.startswith("_")
        } - NOT_TRIED


Check = tuple[tuple[str, ...], "Callable[[Visit], Awaitable[None]]"]
CHECKS: list[Check] = []


def call(*names: str) -> Callable[[Any], Any]:
    """Add a check of these calls. It is made when the generation has any of them."""

    def add(function: Any) -> Any:
        CHECKS.append((names, function))
        return function

    return add


async def got(value: Any) -> Any:
    """Await what an asynchronous SDK returns; a synchronous one's is there already."""
    return await value if inspect.isawaitable(value) else value


async def all_of(found: Any) -> list[Any]:
    """Read a list in each of its shapes: itself, in an object, an iterator of either kind."""
    found = await got(found)
    for name in ("items", "sessions"):
        found = getattr(found, name, found)
    if hasattr(found, "__aiter__"):
        return [item async for item in found]
    return list(found)


def expect(what: str, seen: object, wanted: object) -> None:
    if seen != wanted:
        raise WrongError(f"{what}: {seen!r} and not {wanted!r}")


async def raises(words: str, make: Callable[[], Any]) -> None:
    """Expect an error that has these words."""
    try:
        await got(make())
    except Exception as error:
        if words.lower() not in f"{error}".lower():
            raise
        return
    raise WrongError(f"nothing was raised, and {words!r} was expected")


async def refused(words: str, make: Callable[[], Any]) -> None:
    """Expect the server to refuse in these words, which the page then shows."""
    await raises(words, make)
    raise RefusedError(words)


def state(thing: Any) -> str:
    return str(getattr(thing.state, "value", thing.state))


async def becomes(what: str, look: Callable[[], Any], wanted: object) -> None:
    """Look until it is what is wanted."""
    seen = None
    for _ in range(300):
        seen = await got(look())
        if seen == wanted:
            return
        await asyncio.sleep(0.1)
    raise WrongError(f"{what}: {seen!r} and not {wanted!r}, after 30 seconds")


async def outcome(check: Callable[[Visit], Awaitable[None]], visit: Visit) -> str:
    """Make one check and say how it went."""
    try:
        await asyncio.wait_for(check(visit), SECONDS)
    except RefusedError as refusal:
        return f"{REFUSED}{refusal}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return f"{type(error).__name__}: {error}"[:_LONGEST]
    return WORKS


async def make_every_call(visit: Visit) -> dict[str, str]:
    """Return call → outcome; of several checks of one call, the first that is not right counts."""
    outcomes: dict[str, str] = {}
    for names, check in CHECKS:
        there = set(names) & (visit.calls() | {"create"})
        if not there:
            continue
        print(f"{', '.join(sorted(there))} ...", file=sys.stderr, flush=True)
        came = await outcome(check, visit)
        for name in there:
            if outcomes.get(name, WORKS) == WORKS:
                outcomes[name] = came
        if visit.sandbox is None:
            break
    return dict.fromkeys(sorted(visit.calls()), UNTRIED) | outcomes


async def main() -> None:
    try:
        sdk = importlib.import_module("daytona")
    except ImportError:
        sdk = importlib.import_module("daytona_sdk")
    for module in MODULES:
        importlib.import_module(f"tests.e2e.generations.{module}")
    with_await = "--async" in sys.argv[1:]
    visit = Visit(sdk, (sdk.AsyncDaytona if with_await else sdk.Daytona)())
    print(json.dumps(await make_every_call(visit)))


if __name__ == "__main__":
    # By its name, so that the modules of checks find this very table.
    asyncio.run(importlib.import_module("tests.e2e.generations.visit").main())
