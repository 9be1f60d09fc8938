"""Transactions over SQL, and what goes wrong in them in this project's words.

Knows of no table. What differs between databases in a transaction is here and nowhere else.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError as PoolTimeoutError

from control.errors import ConflictError, InvalidError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sqlalchemy import Connection, Executable, Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")

POSTGRESQL = "postgresql"
_YURT = 0x79757274  # keeps our advisory locks apart from those of others in the same database

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CANNOT_BE_STORED = "22"  # the class of data exceptions: a NUL, a text that is too long
_LOST = ("08", "57P")  # connection exceptions, and the operator's interventions
_UNDONE = ("40001", "40P01")  # serialization failure, deadlock


class Turn(IntEnum):
    """What only one transaction at a time may do, of all processes."""

    MIGRATE = 1
    COUNT = 2
    PUT = 3
    REPEAT = 4


_TAKE_TURN = select(func.pg_advisory_xact_lock(_YURT, bindparam("turn")))


def take_turn(connection: Connection, turn: Turn) -> None:
    """Wait for a turn, and keep it to the end of the transaction; SQLite has one writer anyway."""
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_TAKE_TURN, {"turn": int(turn)})


class Database:
    """Reads and writes of one database; at most ``writers`` of the latter at once.

    More of them wait here, one behind the other: that is fairer than SQLite's busy time-out, and
    leaves connections for those who read.
    """

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, *, writers: int) -> None:
        self._writer, self._reader = writer, reader
        self._writing = asyncio.Semaphore(writers)
        self._begun: set[asyncio.Task[Any]] = set()

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do ``work`` in a transaction, which is durable then, or undone by an exception.

        Where the database undid it for another's sake, or was lost before the end, it is done a
        second time. It goes to its end also when whoever waits for it is cancelled: SQLite's
        driver leaves a connection that is given up in the middle open, and with it the lock that
        every other writer needs.

        Raises:
            UnavailableError: it was not done, or nobody knows.
        """
        begun = asyncio.create_task(self._write(work))
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return await asyncio.shield(begun)

    async def finish(self) -> None:
        """Wait for what was begun and is waited for by nobody any more."""
        await asyncio.gather(*self._begun, return_exceptions=True)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._writing:
            with errors():
                try:
                    return await _transact(self._writer, work)
                except _AgainError:
                    return await _transact(self._writer, work)

    async def rows(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Read."""

        async def read(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return (await connection.execute(statement, parameters)).all()

        with errors():
            try:
                return await _transact(self._reader, read)
            except _AgainError:
                return await _transact(self._reader, read)


class _AgainError(Exception):
    """It left nothing behind and may go well the next time; raised from the database's error."""


async def _transact(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async with engine.connect() as connection:
        try:
            try:
                result = await work(connection)
            except DBAPIError as error:
                if _left_nothing(error):
                    raise _AgainError from error
                raise
            await connection.commit()
        except TimeoutError:
            # Nothing more can be said on it: not even that the transaction is off.
            if not connection.invalidated:
                await connection.invalidate()
            raise
        return result


def _left_nothing(error: DBAPIError) -> bool:
    state = _state(error)
    return error.connection_invalidated or state in _UNDONE or state.startswith(_LOST)


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


class errors:  # noqa: N801 - used as a function; a generator would cost a frame per statement
    """Raise the database's errors as ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _AgainError):
            error = error.__cause__
        if isinstance(error, IntegrityError):
            raise ConflictError("the name is taken") from error
        if isinstance(error, DBAPIError) and _state(error).startswith(_CANNOT_BE_STORED):
            raise InvalidError("a text holds a NUL or is too long: it cannot be stored") from error
        if isinstance(error, DBAPIError | PoolTimeoutError | TimeoutError):
            raise UnavailableError("the database does not answer; try again") from error
