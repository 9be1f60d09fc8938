"""Whose turn it is to do something long."""

from __future__ import annotations

import contextlib

import pytest

from control.errors import UnavailableError
from control.reconcile.turns import Turns

pytestmark = pytest.mark.unit


def test_each_node_has_its_turns_and_all_have_no_more_than_the_most() -> None:
    turns = Turns(each=2, most=3)
    with contextlib.ExitStack() as one, contextlib.ExitStack() as others:
        one.enter_context(turns.take("a"))
        one.enter_context(turns.take("a"))
        with pytest.raises(UnavailableError, match="others"):
            one.enter_context(turns.take("a"))
        others.enter_context(turns.take("b"))
        with pytest.raises(UnavailableError, match="others"):
            others.enter_context(turns.take("c"))
        one.close()
        others.enter_context(turns.take("c"))


def test_what_fails_gives_its_turn_back() -> None:
    turns = Turns(each=1, most=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="why"), turns.take("a"):
            raise ValueError("why")
