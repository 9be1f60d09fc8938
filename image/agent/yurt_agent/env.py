"""``POST /env``: change the environment of what starts from now on."""

from __future__ import annotations

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError
from yurt_agent.fields import text, text_map, texts
from yurt_agent.http import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VALUE_BYTES = (128 << 10) - 1
"""Longest ``NAME=value`` that the kernel gives to a program, with the NUL after it."""

TOTAL_BYTES = 1 << 20
"""Longest environment; the kernel takes 2 MiB of environment and arguments by default."""


async def update_env(request: Request) -> Response:
    """Answer ``POST /env`` with the environment as it is then.

    Programs, sessions and terminals that run keep theirs; a restart of the sandbox brings back
    the one of its create.
    """
    body = await request.json()
    environment = request.identity.environment
    changed = apply(
        environment,
        set_=text_map(body, "set"),
        unset=texts(body, "unset"),
        prefix=text(body, "unsetValuePrefix", ""),
    )
    # In place, in one step of the event loop: sessions and terminals that exist share it.
    environment.clear()
    environment.update(changed)
    return Response.json(changed)


def apply(
    environment: Mapping[str, str], *, set_: Mapping[str, str], unset: Iterable[str], prefix: str
) -> dict[str, str]:
    """Return the changed environment; what is to be set wins over what is to go.

    Args:
        environment: the present one.
        set_: names to their new values; empty values are values.
        unset: names that go; those that are not there are no error.
        prefix: unless empty, all whose value begins with it go, too.

    Raises:
        BadRequestError: no program could be given the result.
    """
    spawn.check_environment(set_)
    gone = set(unset)
    kept = {
        name: value
        for name, value in environment.items()
        if name not in gone and not (prefix and value.startswith(prefix))
    }
    changed = {**kept, **set_}
    for name in set_:
        if _size(name, changed[name]) > VALUE_BYTES:
            raise BadRequestError(
                f"the environment variable {name} is longer than {VALUE_BYTES} bytes: use a file"
            )
    if sum(_size(name, value) for name, value in changed.items()) > TOTAL_BYTES:
        raise BadRequestError(
            f"the environment would be longer than {TOTAL_BYTES} bytes: unset some, or use files"
        )
    return changed


def _size(name: str, value: str) -> int:
    return len(f"{name}={value}".encode("utf-8", "surrogateescape")) + 1
