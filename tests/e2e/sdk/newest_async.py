"""The tour with the newest SDK, asynchronous."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from daytona import (  # type: ignore[import-not-found]
    AsyncDaytona,
    CreateSandboxFromSnapshotParams,
    DaytonaNotFoundError,
    ListSandboxesQuery,
    PtySize,
    SessionExecuteRequest,
)

from tests.e2e.sdk import tour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class NewestPty:
    """A terminal whose output is collected as it arrives."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.output = b""

    def on_data(self, data: bytes) -> None:
        self.output += data

    async def send(self, text: str) -> None:
        await self.handle.send_input(text)

    async def wait_for(self, text: str) -> None:
        end = time.monotonic() + 10
        while text.encode() not in self.output:
            if time.monotonic() > end:
                raise tour.TourError(f"{text!r} did not appear in the terminal: {self.output!r}")
            await asyncio.sleep(0.05)

    async def resize(self, cols: int, rows: int) -> None:
        await self.handle.resize(PtySize(rows=rows, cols=cols))

    async def exit_code(self) -> int | None:
        result = await asyncio.wait_for(self.handle.wait(), 10)
        await self.handle.disconnect()
        return int(result.exit_code) if result.exit_code is not None else None


class Newest:
    """Drives ``daytona`` with await."""

    name = "newest, async"
    makes_branches = True

    def __init__(self) -> None:
        self.sdk = AsyncDaytona()
        self.sandbox: Any = None

    async def create(self, name: str, env: dict[str, str], labels: dict[str, str]) -> str:
        parameters = CreateSandboxFromSnapshotParams(name=name, env_vars=env, labels=labels)
        self.sandbox = await self.sdk.create(parameters)
        return str(self.sandbox.id)

    async def describe(self) -> dict[str, object]:
        await self.sandbox.refresh_data()
        state, labels = self.sandbox.state.value, self.sandbox.labels
        return {"state": state, "env": self.sandbox.env, "label": labels["tour"]}

    async def listed(self, labels: dict[str, str]) -> list[str]:
        return [item.id async for item in self.sdk.list(ListSandboxesQuery(labels=labels))]

    async def execute(self, command: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        answer = await self.sandbox.process.exec(command, env=env)
        return answer.exit_code, answer.result

    async def code_run(self, code: str) -> tuple[int, str]:
        answer = await self.sandbox.process.code_run(code)
        return answer.exit_code, answer.result

    async def interpret(self, code: str) -> tuple[str, str] | None:
        context = await self.sandbox.code_interpreter.create_context("/tmp")
        assert context.cwd == "/tmp"
        await self.sandbox.code_interpreter.delete_context(context)
        answer = await self.sandbox.code_interpreter.run_code(code)
        return answer.stdout, answer.error.name if answer.error else ""

    async def session_create(self, session: str) -> None:
        await self.sandbox.process.create_session(session)

    async def session_run(self, session: str, command: str) -> tuple[int, str]:
        request = SessionExecuteRequest(command=command)
        answer = await self.sandbox.process.execute_session_command(session, request)
        return answer.exit_code, answer.stdout

    async def session_start(self, session: str, command: str) -> str:
        request = SessionExecuteRequest(command=command, run_async=True)
        answer = await self.sandbox.process.execute_session_command(session, request)
        return str(answer.cmd_id)

    async def session_follow(
        self, session: str, command: str, on_text: Callable[[str], None]
    ) -> None:
        await self.sandbox.process.get_session_command_logs_async(
            session, command, on_text, on_text
        )

    async def session_logs(self, session: str, command: str) -> str:
        answer = await self.sandbox.process.get_session_command_logs(session, command)
        return f"{answer.stdout}{answer.stderr}"

    async def session_exit(self, session: str, command: str) -> int | None:
        answer = await self.sandbox.process.get_session_command(session, command)
        return int(answer.exit_code) if answer.exit_code is not None else None

    async def session_delete(self, session: str) -> None:
        await self.sandbox.process.delete_session(session)

    async def pty(self, name: str, cols: int, rows: int, env: dict[str, str]) -> tour.Pty | None:
        pty = NewestPty()
        pty.handle = await self.sandbox.process.create_pty_session(
            name, pty.on_data, envs=env, pty_size=PtySize(rows=rows, cols=cols)
        )
        return pty

    async def upload(self, content: bytes, path: str) -> None:
        await self.sandbox.fs.upload_file(content, path)

    async def download(self, path: str) -> bytes:
        return bytes(await self.sandbox.fs.download_file(path))

    async def upload_file(self, local: Path, path: str) -> None:
        await self.sandbox.fs.upload_file(str(local), path)

    async def download_file(self, path: str, local: Path) -> None:
        await self.sandbox.fs.download_file(path, str(local))

    async def names_in(self, path: str) -> list[str]:
        return [item.name for item in await self.sandbox.fs.list_files(path)]

    async def git(self, call: str, *arguments: object) -> Any:
        return await getattr(self.sandbox.git, call)(*arguments)

    async def preview(self, port: int) -> tuple[str, str]:
        link = await self.sandbox.get_preview_link(port)
        return link.url, link.token

    async def stop(self) -> None:
        await self.sandbox.stop()

    async def start(self) -> None:
        await self.sandbox.start()

    async def delete(self) -> None:
        await self.sandbox.delete()

    async def gone(self) -> bool:
        try:
            found = await self.sdk.get(self.sandbox.id)
        except DaytonaNotFoundError:
            return True
        return bool(found.state == "destroyed")

    async def close(self) -> None:
        await self.sdk.close()


if __name__ == "__main__":
    tour.main(Newest)
