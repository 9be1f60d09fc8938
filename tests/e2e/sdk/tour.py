"""One tour through a sandbox with fresh random content, whatever SDK drives it.

Runs in the SDK's own environment. An adapter per SDK implements ``Client``; every step here sends
something that did not exist before and compares what comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import aiohttp  # type: ignore[import-not-found]

from tests.e2e.sdk import wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAGE = Path(__file__).parent.parent / "inside" / "page.py"
DEFAULT_BYTES = 1 << 30
HTTP_PORT, SOCKET_PORT = 3000, 3001
CHUNK = 1 << 20
T = TypeVar("T")


class TourError(Exception):
    """What came back is not what the contract says."""


class Pty(Protocol):
    """An open terminal."""

    async def send(self, text: str) -> None: ...
    async def wait_for(self, text: str) -> None: ...
    async def resize(self, cols: int, rows: int) -> None: ...
    async def exit_code(self) -> int | None: ...


class Client(Protocol):
    """What the tour needs of an SDK. ``create`` remembers the sandbox for the other calls."""

    name: str
    makes_branches: bool

    async def create(self, name: str, env: dict[str, str], labels: dict[str, str]) -> str: ...
    async def describe(self) -> dict[str, object]: ...
    async def listed(self, labels: dict[str, str]) -> list[str]: ...
    async def execute(self, command: str, env: dict[str, str] | None = None) -> tuple[int, str]: ...
    async def code_run(self, code: str) -> tuple[int, str]: ...
    async def interpret(self, code: str) -> tuple[str, str] | None: ...
    async def session_create(self, session: str) -> None: ...
    async def session_run(self, session: str, command: str) -> tuple[int, str]: ...
    async def session_start(self, session: str, command: str) -> str: ...
    async def session_follow(
        self, session: str, command: str, on_text: Callable[[str], None]
    ) -> None: ...
    async def session_logs(self, session: str, command: str) -> str: ...
    async def session_exit(self, session: str, command: str) -> int | None: ...
    async def session_delete(self, session: str) -> None: ...
    async def pty(self, name: str, cols: int, rows: int, env: dict[str, str]) -> Pty | None: ...
    async def upload(self, content: bytes, path: str) -> None: ...
    async def download(self, path: str) -> bytes: ...
    async def upload_file(self, local: Path, path: str) -> None: ...
    async def download_file(self, path: str, local: Path) -> None: ...
    async def names_in(self, path: str) -> list[str]: ...
    async def git(self, call: str, *arguments: object) -> Any: ...
    async def preview(self, port: int) -> tuple[str, str]: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...
    async def delete(self) -> None: ...
    async def gone(self) -> bool: ...
    async def close(self) -> None: ...


@dataclass
class Tour:
    """The state that the steps share."""

    client: Client
    size: int
    scratch: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    figures: dict[str, float] = field(default_factory=dict)
    sandbox_id: str = ""

    @property
    def value(self) -> str:
        """An environment value with everything that a shell could touch."""
        return f"{self.mark} 'q' \"d\" $HOME `id` \\ é"

    async def call(self, title: str, work: Awaitable[T]) -> T:
        """Await one SDK call and print its result and time."""
        wire.say(f"{self.client.name}: {title}")
        started = time.monotonic()
        result = await work
        spent = time.monotonic() - started
        self.figures[title] = spent
        shown = f"{len(result)} bytes" if isinstance(result, bytes) else wire.trim(result)
        wire.say(f"    = {shown or 'nothing'} [{spent * 1000:.0f} ms]")
        return result


def expect(what: str, got: object, wanted: object) -> None:
    """Compare, and say both sides when they differ."""
    if got != wanted:
        raise TourError(f"{what}: got {got!r}, wanted {wanted!r}")


async def eventually(what: str, check: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait until ``check`` says yes."""
    end = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > end:
            raise TourError(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.1)


async def create(tour: Tour) -> None:
    env = {"TOUR_VALUE": tour.value, "TOUR_EMPTY": ""}
    labels = {"tour": tour.mark}
    tour.sandbox_id = await tour.call(
        "create(env, labels)", tour.client.create(f"tour-{tour.mark}", env, labels)
    )
    seen = await tour.call("describe()", tour.client.describe())
    expect("state after create", seen["state"], "started")
    expect("env after create", seen["env"], env)
    expect("label after create", seen["label"], tour.mark)
    expect("list by label", await tour.client.listed(labels), [tour.sandbox_id])
    expect("list by a foreign label", await tour.client.listed({"tour": "no"}), [])


async def execute(tour: Tour) -> None:
    command = 'printf \'%s|%s|\' "$TOUR_VALUE" "${TOUR_EMPTY-unset}"'
    code, text = await tour.call(f"exec({command})", tour.client.execute(command))
    expect("exec", (code, text.rstrip("\n")), (0, f"{tour.value}||"))
    code, text = await tour.call(
        "exec with env", tour.client.execute('printf %s "$GIVEN"', {"GIVEN": tour.value[::-1]})
    )
    expect("exec with env", (code, text.rstrip("\n")), (0, tour.value[::-1]))
    script = f"cat <<END | tr a-z A-Z; exit 7\nx{tour.mark}\nEND"
    code, text = await tour.call("exec of a here-document", tour.client.execute(script))
    expect("here-document", (code, text.strip()), (7, f"X{tour.mark.upper()}"))


async def code_run(tour: Tour) -> None:
    code = f"import hashlib\nprint(hashlib.sha256({tour.mark!r}.encode()).hexdigest())"
    status, text = await tour.call("code_run(sha256)", tour.client.code_run(code))
    digest = hashlib.sha256(tour.mark.encode()).hexdigest()
    expect("code_run", (status, text.strip()), (0, digest))


async def interpret(tour: Tour) -> None:
    first = await tour.call("run_code", tour.client.interpret(f"kept = {tour.value!r}"))
    if first is None:
        wire.say(f"{tour.client.name}: this SDK has no interpreter")
        return
    shown = await tour.call("run_code", tour.client.interpret("print(kept)"))
    expect("what the interpreter keeps", shown, (f"{tour.value}\n", ""))
    failed = await tour.call("run_code", tour.client.interpret("print('x')\n1 / 0"))
    expect("an error in the interpreter", failed, ("x\n", "ZeroDivisionError"))


async def session(tour: Tour) -> None:
    name, client = f"session-{tour.mark}", tour.client
    await tour.call("create_session", client.session_create(name))
    await client.session_run(name, f"cd /tmp; export KEPT={tour.mark}")
    code, text = await tour.call("session keeps state", client.session_run(name, "echo $KEPT $PWD"))
    expect("session state", (code, text.strip()), (0, f"{tour.mark} /tmp"))
    loop = f"for n in 1 2 3 4 5; do echo {tour.mark}-$n; echo err-$n >&2; sleep 0.3; done; (exit 3)"
    command = await tour.call("session run_async", client.session_start(name, loop))
    arrived: list[tuple[float, str]] = []
    await tour.call(
        "follow the logs",
        client.session_follow(name, command, lambda text: arrived.append((time.monotonic(), text))),
    )
    followed = "".join(text for _, text in arrived)
    for number in range(1, 6):
        for line in (f"{tour.mark}-{number}\n", f"err-{number}\n"):
            expect(f"{line!r} in the followed logs", followed.count(line), 1)
    spread = arrived[-1][0] - arrived[0][0]
    if spread < 0.6:
        raise TourError(f"the followed logs came all at once (within {spread:.2f} s)")
    expect("exit code of the command", await client.session_exit(name, command), 3)
    logs = await tour.call("get_session_command_logs", client.session_logs(name, command))
    expect("lines in the logs", sorted(logs.split()), sorted(followed.split()))
    await tour.call("delete_session", client.session_delete(name))


async def pty(tour: Tour) -> None:
    terminal = await tour.call(
        "create_pty_session(91x33)",
        tour.client.pty(f"pty-{tour.mark}", 91, 33, {"PTY_VALUE": tour.mark}),
    )
    if terminal is None:
        wire.say(f"{tour.client.name}: this SDK has no terminals")
        return
    await tour.call("send_input", terminal.send('stty size; echo "<$PTY_VALUE|$TOUR_VALUE>"\n'))
    await tour.call("wait for the size", terminal.wait_for("33 91"))
    await tour.call("wait for the environment", terminal.wait_for(f"<{tour.mark}|{tour.value}>"))
    await tour.call("resize(132x47)", terminal.resize(132, 47))
    await terminal.send("stty size\n")
    await tour.call("wait for the new size", terminal.wait_for("47 132"))
    await terminal.send("exit 5\n")
    expect("exit code of the terminal", await tour.call("wait", terminal.exit_code()), 5)


async def files(tour: Tour) -> None:
    client, folder = tour.client, f"/tmp/tour-{tour.mark}/a b"
    text = f"zeile eins {tour.mark}\nпять 五 🦌\n".encode()
    binary = bytes(range(256)) + secrets.token_bytes(CHUNK) + b"\r\n--DAYTONA-FILE-BOUNDARY\r\n"
    contents = {"text ü.txt": text, "binary.bin": binary, "empty": b""}
    for name, content in contents.items():
        path = f"{folder}/{name}"
        await tour.call(f"upload_file({name})", client.upload(content, path))
        expect(name, await tour.call(f"download_file({name})", client.download(path)), content)
    expect("names in the folder", sorted(await client.names_in(folder)), sorted(contents))


async def git(tour: Tour) -> None:
    client, place = tour.client, f"/tmp/git-{tour.mark}"
    code, text = await client.execute(f"git init --quiet --bare -b main {place}/up.git")
    expect("git init", (code, text), (0, ""))

    async def call(name: str, *arguments: object) -> Any:
        return await tour.call(f"git.{name}", client.git(name, *arguments))

    ours, theirs = f"{place}/ours", f"{place}/theirs"
    await call("clone", f"{place}/up.git", ours)
    await client.upload(tour.mark.encode(), f"{ours}/file ü")
    (file,) = (await call("status", ours)).file_status
    expect(
        "status",
        (file.name, str(getattr(file.staging, "value", file.staging))),
        ("file ü", "Untracked"),
    )
    await call("add", ours, ["."])
    await call("commit", ours, tour.value, "Tour", "tour@example.org")
    await call("push", ours)
    await call("clone", f"{place}/up.git", theirs)
    expect("cloned file", await client.download(f"{theirs}/file ü"), tour.mark.encode())
    if client.makes_branches:
        await call("create_branch", ours, "topic")
        await call("checkout_branch", ours, "main")
        expect("branches", sorted((await call("branches", ours)).branches), ["main", "topic"])
        await call("delete_branch", ours, "topic")
    expect("branches", (await call("branches", ours)).branches, ["main"])
    await client.upload(tour.mark[::-1].encode(), f"{ours}/second")
    await call("add", ours, ["second"])
    await call("commit", ours, "second", "Tour", "tour@example.org")
    expect("ahead", (await call("status", ours)).ahead, 1)
    await call("push", ours)
    await call("pull", theirs)
    expect("pulled file", await client.download(f"{theirs}/second"), tour.mark[::-1].encode())


async def large_file(tour: Tour) -> None:
    local, back, path = tour.scratch / "out", tour.scratch / "back", f"/tmp/large-{tour.mark}"
    digest = make_random_file(local, tour.size)
    await tour.call(f"upload_file: {tour.size} bytes", tour.client.upload_file(local, path))
    local.unlink()
    _, text = await tour.call("sha256sum inside", tour.client.execute(f"sha256sum {path}"))
    expect("digest inside", text.split()[0], digest)
    await tour.call(f"download_file: {tour.size} bytes", tour.client.download_file(path, back))
    expect("digest of the download", digest_of(back), digest)
    back.unlink()
    await tour.client.execute(f"rm {path}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    wire.say(f"    the SDK's process had {peak} MiB resident at most")


async def preview(tour: Tour) -> None:
    client, folder = tour.client, f"/tmp/www-{tour.mark}"
    await client.upload(tour.mark.encode(), f"{folder}/index.html")
    await client.upload(PAGE.read_bytes(), f"{folder}/page.py")
    name = f"servers-{tour.mark}"
    await client.session_create(name)
    serve = f"python3 -m http.server --bind 127.0.0.1 --directory {folder} {HTTP_PORT}"
    await client.session_start(
        name, f"{serve} & python3 {folder}/page.py {SOCKET_PORT} {tour.mark}"
    )
    url, token = await tour.call("get_preview_link", client.preview(HTTP_PORT))
    headers = {"X-Daytona-Preview-Token": token}
    await eventually("the preview", lambda: answers(url, headers, tour.mark), 15)
    async with aiohttp.ClientSession() as http:
        async with http.get(url, allow_redirects=False) as answer:
            expect("preview without its token", answer.status, 401)
        socket_url, token = await client.preview(SOCKET_PORT)
        headers = {"X-Daytona-Preview-Token": token}
        await eventually("the page", lambda: answers(socket_url, headers, "WebSocket"), 15)
        socket_url = f"ws{socket_url.removeprefix('http').rstrip('/')}/socket"
        async with http.ws_connect(socket_url, headers=headers) as socket:
            expect("first message of the socket", await socket.receive_str(), tour.mark)
            await socket.send_str(tour.mark[::-1])
            expect("echo of the socket", await socket.receive_str(), tour.mark[::-1])
    await client.session_delete(name)


async def stop_and_start(tour: Tour) -> None:
    client, path = tour.client, f"/tmp/tour-{tour.mark}/a b/binary.bin"
    before = await client.download(path)
    link = await client.preview(HTTP_PORT)
    await client.execute(f"sudo sh -c 'echo {tour.mark} > /opt/kept'")
    await tour.call("stop", client.stop())
    expect("state after stop", (await client.describe())["state"], "stopped")
    await tour.call("start", client.start())
    expect("state after start", (await client.describe())["state"], "started")
    expect("the binary file after start", await client.download(path) == before, True)
    code, text = await tour.call(
        "exec after start", client.execute('cat /opt/kept; printf %s "$TOUR_VALUE"')
    )
    expect("content after start", (code, text.rstrip("\n")), (0, f"{tour.mark}\n{tour.value}"))
    expect("the preview link after start", await client.preview(HTTP_PORT), link)


async def delete(tour: Tour) -> None:
    await tour.call("delete", tour.client.delete())
    await eventually("the sandbox to be gone", tour.client.gone, 15)
    expect("list after delete", await tour.client.listed({"tour": tour.mark}), [])


STEPS = (
    *(create, execute, code_run, interpret, session, pty),
    *(files, git, large_file, preview, stop_and_start, delete),
)


async def answers(url: str, headers: dict[str, str], wanted: str) -> bool:
    """Say whether the URL answers 200 with ``wanted`` in its body."""
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return bool(answer.status == 200 and wanted in await answer.text())


def make_random_file(path: Path, size: int) -> str:
    """Write ``size`` random bytes and return their SHA-256."""
    digest, left = hashlib.sha256(), size
    with path.open("wb") as file:
        while left:
            chunk = os.urandom(min(CHUNK, left))
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Summary:
    """What the driver prints last, as JSON."""

    sdk: str
    bytes: int
    passed: list[str] = field(default_factory=list)
    failed: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


async def run(client: Client, summary: Summary) -> None:
    """Take every step, up to the first that fails; the sandbox is deleted in any case."""
    with tempfile.TemporaryDirectory(prefix="yurt-tour-", dir="/var/tmp") as scratch:
        tour = Tour(client, summary.bytes, Path(scratch))
        try:
            for step in STEPS:
                summary.failed = step.__name__
                await step(tour)
                summary.passed.append(step.__name__)
            summary.failed = None
        finally:
            summary.seconds = {name: round(spent, 3) for name, spent in tour.figures.items()}
            if tour.sandbox_id and summary.failed not in {None, delete.__name__}:
                await client.delete()
            await client.close()


def main(make: type[Client]) -> None:
    """Run the command line of one driver."""
    parser = argparse.ArgumentParser(description="Take the tour with one SDK.")
    parser.add_argument("--bytes", type=int, default=DEFAULT_BYTES, help="size of the large file")
    parser.add_argument("--summary", type=Path, help="write the JSON summary to this file, too")
    chosen = parser.parse_args()
    wire.install()
    summary = Summary(sdk=make.name, bytes=chosen.bytes)
    try:
        asyncio.run(_run(make, summary))
    finally:
        text = json.dumps(asdict(summary), ensure_ascii=False)
        print(text, flush=True)
        if chosen.summary:
            chosen.summary.write_text(text)


async def _run(make: type[Client], summary: Summary) -> None:
    # The asynchronous SDKs want their client made inside the running loop.
    await run(make(), summary)
