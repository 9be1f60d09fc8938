"""Modules that load when they are first used, and in most sandboxes never.

``asyncio`` imports what describes and prints code, for its debugging: a fourth of its own 45 ms,
and 2 MB. ``importlib.util.LazyLoader`` does not help: in Python 3.11 the ``import`` statement
itself looks at the module and loads it.
"""

from __future__ import annotations

import sys
from types import ModuleType

FOR_DEBUGGING = ("inspect", "linecache", "locale", "textwrap", "traceback")


class _Later(ModuleType):
    def __getattr__(self, name: str) -> object:  # type: ignore[explicit-override]
        # Only here for what is not there yet: then nothing is.
        from importlib import import_module

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        found: object = getattr(module, name)
        return found


def defer(names: tuple[str, ...]) -> None:
    """Let whoever imports these modules from now on get them when he uses them."""
    for name in names:
        sys.modules.setdefault(name, _Later(name))
