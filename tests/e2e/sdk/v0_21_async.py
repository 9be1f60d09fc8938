"""The tour with SDK 0.21, asynchronous: the generation before toolbox URLs and terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daytona_api_client_async.exceptions import (  # type: ignore[import-not-found]
    NotFoundException,
)
from daytona_sdk import (  # type: ignore[import-not-found]
    AsyncDaytona,
    CreateSandboxFromSnapshotParams,
    SessionExecuteRequest,
)

from tests.e2e.sdk import tour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Old:
    """Drives ``daytona-sdk`` 0.21 with await."""

    name = "0.21, async"
    makes_branches = False

    def __init__(self) -> None:
        self.sdk = AsyncDaytona()
        self.sandbox: Any = None

    async def create(self, name: str, env: dict[str, str], labels: dict[str, str]) -> str:
        # This generation has no names; the label alone tells the sandbox.
        parameters = CreateSandboxFromSnapshotParams(env_vars=env, labels=labels, language="python")
        self.sandbox = await self.sdk.create(parameters)
        return str(self.sandbox.id)

    async def describe(self) -> dict[str, object]:
        await self.sandbox.refresh_data()
        state, labels = self.sandbox.state.value, self.sandbox.labels
        return {"state": state, "env": self.sandbox.env, "label": labels["tour"]}

    async def listed(self, labels: dict[str, str]) -> list[str]:
        return [item.id for item in await self.sdk.list(labels)]

    async def execute(self, command: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        answer = await self.sandbox.process.exec(command, env=env)
        return int(answer.exit_code), answer.result

    async def code_run(self, code: str) -> tuple[int, str]:
        answer = await self.sandbox.process.code_run(code)
        return int(answer.exit_code), answer.result

    async def interpret(self, code: str) -> tuple[str, str] | None:
        return None

    async def session_create(self, session: str) -> None:
        await self.sandbox.process.create_session(session)

    async def session_run(self, session: str, command: str) -> tuple[int, str]:
        request = SessionExecuteRequest(command=command)
        answer = await self.sandbox.process.execute_session_command(session, request)
        return int(answer.exit_code), answer.output or ""

    async def session_start(self, session: str, command: str) -> str:
        request = SessionExecuteRequest(command=command, run_async=True)
        answer = await self.sandbox.process.execute_session_command(session, request)
        return str(answer.cmd_id)

    async def session_follow(
        self, session: str, command: str, on_text: Callable[[str], None]
    ) -> None:
        await self.sandbox.process.get_session_command_logs_async(session, command, on_text)

    async def session_logs(self, session: str, command: str) -> str:
        return str(await self.sandbox.process.get_session_command_logs(session, command))

    async def session_exit(self, session: str, command: str) -> int | None:
        answer = await self.sandbox.process.get_session_command(session, command)
        return int(answer.exit_code) if answer.exit_code is not None else None

    async def session_delete(self, session: str) -> None:
        await self.sandbox.process.delete_session(session)

    async def pty(self, name: str, cols: int, rows: int, env: dict[str, str]) -> tour.Pty | None:
        return None

    async def upload(self, content: bytes, path: str) -> None:
        await self.sandbox.fs.upload_file(content, path)

    async def download(self, path: str) -> bytes:
        return bytes(await self.sandbox.fs.download_file(path))

    async def upload_file(self, local: Path, path: str) -> None:
        await self.sandbox.fs.upload_file(str(local), path)

    async def download_file(self, path: str, local: Path) -> None:
        # This generation's download to a file passes its headers where its HTTP client takes none.
        local.write_bytes(await self.download(path))

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
        except NotFoundException:
            return True
        return bool(found.state.value == "destroyed")

    async def close(self) -> None:
        await self.sdk.close()


if __name__ == "__main__":
    tour.main(Old)
