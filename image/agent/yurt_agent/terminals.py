"""Interactive shells on pseudo-terminals, each seen by any number of clients.

A terminal goes on when its clients leave. What it prints while nobody looks is kept, up to a
bound, and shown to the next client. The shell is held up when every client is behind, as on a
slow line; a client that is far behind while others are not, is dropped.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
import time
from typing import NamedTuple

from yurt_agent import spawn
from yurt_agent.errors import ConflictError, GoneError, NotFoundError, timestamp
from yurt_agent.pipes import Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from yurt_agent.user import Identity

UNSEEN = 64 << 10
"""Bytes that are kept while nobody looks."""

BEHIND = 256 << 10
"""Bytes that may wait for a client before it counts as behind."""

FAR_BEHIND = 2 << 20
"""Bytes that may wait for a client while others see them."""

ENDED = 100
"""Ended terminals that are remembered."""

GRACE_SECONDS = 0.5
"""Time between hanging up and killing."""

_GOOD_SHELLS = {"bash", "fish", "ksh", "zsh"}


class Size(NamedTuple):
    """Of a terminal, in characters."""

    columns: int = 80
    rows: int = 24


class Plan(NamedTuple):
    """What a terminal is made of; ``lazy`` ones start with their first client."""

    name: str
    cwd: str
    envs: Mapping[str, str]
    size: Size
    lazy: bool = False


class Viewer:
    """The output on its way to one client."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._pieces: list[bytes] = []
        self._changed = asyncio.Event()
        self.waiting = 0
        self.dropped = False

    def show(self, data: bytes) -> None:
        """Queue output."""
        self._pieces.append(data)
        self.waiting += len(data)
        self._changed.set()

    def drop(self) -> None:
        """Give up on this client."""
        self.dropped = True
        self._pieces.clear()
        self._changed.set()

    def wake(self) -> None:
        """Let the client's task look whether the terminal has ended."""
        self._changed.set()

    async def next(self) -> bytes:
        """Return what comes next; empty when the terminal has ended or the client is dropped."""
        while not self._pieces:
            if self.dropped or not self._terminal.active:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._pieces)  # a terminal gives small pieces only
        self._pieces.clear()
        self.waiting = 0
        self._terminal.regulate()
        return data


class Terminal:
    """See the module."""

    def __init__(self, plan: Plan, identity: Identity) -> None:
        self.id, self.cwd, self.envs, self.size = plan.name, plan.cwd, plan.envs, plan.size
        self.lazy = plan.lazy
        self.exit_code: int | None = None
        self._identity = identity
        self._created_at = timestamp(time.time())
        self._fd = -1
        self._screen: Source | None = None
        self._keyboard: Sink | None = None
        self._program: spawn.Program | None = None
        self._ending: asyncio.Task[None] | None = None
        self._viewers: list[Viewer] = []
        self._held = False
        self._unseen = b""

    @property
    def active(self) -> bool:
        """Whether its shell runs, or is yet to be started."""
        return self.exit_code is None

    def describe(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "id": self.id,
            "cwd": self.cwd,
            "envs": dict(self.envs),
            "cols": self.size.columns,
            "rows": self.size.rows,
            "createdAt": self._created_at,
            "active": self.active,
            "lazyStart": self.lazy,
        }

    def start(self) -> None:
        """Start the shell, unless it was started before.

        Raises:
            OSError: it cannot be started; the terminal has ended then.
            BadRequestError: the image has no shell; likewise.
        """
        if self._program is not None or not self.active:
            return
        self.exit_code = spawn.NOT_STARTED  # until it runs
        environment = {**self._identity.environment, "TERM": "xterm-256color", **self.envs}
        shell = self._shell(environment)
        self._fd, inner = os.openpty()
        try:
            self._set_size()
            self._program = spawn.start(
                [*shell, "-i", "-l"],
                environment=environment,
                cwd=self.cwd,
                streams=(inner, inner, inner),
                terminal=True,
            )
        except OSError:
            os.close(self._fd)
            self._fd = -1
            raise
        finally:
            os.close(inner)
        self.exit_code = None
        # Each owns a descriptor: either may find the terminal closed before the other.
        self._screen = Source(os.dup(self._fd), self._show)
        self._keyboard = Sink(os.dup(self._fd))
        self._ending = asyncio.get_running_loop().create_task(self._until_end(self._program))

    def _shell(self, environment: Mapping[str, str]) -> list[str]:
        """Choose the user's shell if it is made for people, else the one that runs commands.

        Images write ``/bin/sh`` for users that nobody chose a shell for.
        """
        wanted = self._identity.user.shell
        if os.path.basename(wanted) in _GOOD_SHELLS and os.access(wanted, os.X_OK):
            return [wanted]
        return spawn.shell(environment)

    def _show(self, data: bytes) -> None:
        if not self._viewers:
            self._unseen = (self._unseen + data)[-UNSEEN:]
        for viewer in self._viewers:
            viewer.show(data)
        self.regulate()

    def regulate(self) -> None:
        """Read on exactly while some client keeps up; drop those that are far behind it."""
        hold = bool(self._viewers) and all(v.waiting >= BEHIND for v in self._viewers)
        if not hold:
            for viewer in [v for v in self._viewers if v.waiting >= FAR_BEHIND]:
                self._viewers.remove(viewer)
                viewer.drop()
        if hold != self._held and self._screen is not None:
            self._held = hold
            if hold:
                self._screen.pause()
            else:
                self._screen.resume()

    async def _until_end(self, program: spawn.Program) -> None:
        code = await program.wait()
        assert self._screen is not None
        assert self._keyboard is not None
        self._screen.drain()
        self._screen.close()
        self._keyboard.close()
        os.close(self._fd)
        self._fd = -1
        self.exit_code = code
        for viewer in self._viewers:
            viewer.wake()

    async def type(self, keys: bytes) -> None:
        """Give keystrokes to the shell; waits while it takes none."""
        if self._keyboard is not None:
            await self._keyboard.write(keys)

    def resize(self, size: Size) -> None:
        """Change the size; the shell is told by the kernel.

        Raises:
            GoneError: the shell has ended.
        """
        if not self.active:
            raise GoneError(f"terminal {self.id!r} has ended", code="SESSION_ENDED")
        self.size = size
        self._set_size()

    def _set_size(self) -> None:
        if self._fd >= 0:
            packed = struct.pack("HHHH", self.size.rows, self.size.columns, 0, 0)
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, packed)

    def attach(self) -> Viewer:
        """Add a client; the first one after a pause sees what was printed meanwhile."""
        viewer = Viewer(self)
        if self._unseen:
            viewer.show(self._unseen)
            self._unseen = b""
        self._viewers.append(viewer)
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """Remove a client; the terminal goes on."""
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            self.regulate()

    async def close(self) -> None:
        """Hang up, then kill the shell and all of its session, also what was disowned."""
        if self._program is not None:
            await self._program.end(grace_seconds=GRACE_SECONDS)
            assert self._ending is not None
            await asyncio.wait((self._ending,), timeout=GRACE_SECONDS)
        elif self.active:
            self.exit_code = spawn.NOT_STARTED
            for viewer in self._viewers:
                viewer.wake()


class Terminals:
    """All terminals of the sandbox."""

    def __init__(self) -> None:
        self._terminals: dict[str, Terminal] = {}

    def listed(self) -> list[Terminal]:
        """Return those whose shells have not ended."""
        return [terminal for terminal in self._terminals.values() if terminal.active]

    def get(self, name: str) -> Terminal:
        """Return a terminal.

        Raises:
            NotFoundError: there is none of that id.
        """
        if name not in self._terminals:
            raise NotFoundError(f"terminal {name!r} not found")
        return self._terminals[name]

    def add(self, plan: Plan, identity: Identity) -> Terminal:
        """Make a terminal; an ended one of the same id makes room.

        Raises:
            ConflictError: the id is taken.
            OSError: the shell cannot be started.
            BadRequestError: the image has no shell.
        """
        known = self._terminals.get(plan.name)
        if known is not None and known.active:
            raise ConflictError(f"terminal {plan.name!r} already exists")
        terminal = Terminal(plan, identity)
        if not plan.lazy:
            terminal.start()
        self._terminals[plan.name] = terminal
        ended = [name for name, other in self._terminals.items() if not other.active]
        for name in ended[:-ENDED]:
            del self._terminals[name]
        return terminal

    async def delete(self, name: str) -> None:
        """End a terminal.

        Raises:
            NotFoundError: there is none of that id.
        """
        terminal = self.get(name)
        del self._terminals[name]
        await asyncio.shield(terminal.close())


TERMINALS = Terminals()
