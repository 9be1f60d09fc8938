"""The table of properties is whole, counts right, and names only tests that there are."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.tiers import TIERS

pytestmark = pytest.mark.unit

TESTS = Path(__file__).parents[1]
TABLE = TESTS / "PROPERTIES.md"
STANDINGS = ("holds", "reworded", "partly", "later", "not applicable")
SHOWN = ("holds", "reworded")  # what these say must be shown by a test

_ROW = re.compile(r"^\| ([SR][0-9]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_COUNT = re.compile(r"^\| ([a-z ]+) \| ([0-9]+) \|", re.MULTILINE)
_TEST = re.compile(r"`([^`]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str, str, str]]:
    return _ROW.findall(TABLE.read_text())


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    functions = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(f.name for f in functions if f.name.startswith("test_"))


def test_every_property_is_there_once_and_in_order() -> None:
    expected = [f"S{n}" for n in range(1, 58)] + [f"R{n}" for n in range(1, 45)]
    assert [row[0] for row in rows()] == expected
    # A row that is written in another way would be overlooked above.
    lines = TABLE.read_text().splitlines()
    assert sum(line.startswith(("| S", "| R")) for line in lines) == len(expected)


def test_every_standing_is_one_of_the_words_and_they_are_counted_right() -> None:
    counted = Counter(standing for _, _, standing, _ in rows())
    assert set(counted) <= set(STANDINGS)
    told = [(word, int(number)) for word, number in _COUNT.findall(TABLE.read_text())]
    assert told == [(word, counted[word]) for word in STANDINGS]


def test_every_test_that_is_named_is_there() -> None:
    for number, _, _, text in rows():
        named = _TEST.findall(text)
        assert len(named) == text.count("::"), number
        for path, name in named:
            assert path.partition("/")[0] in TIERS, (number, path)
            assert name in names_in(path), (number, path, name)


def test_what_is_claimed_names_a_test_and_everything_else_says_why() -> None:
    for number, _, standing, text in rows():
        if standing in SHOWN:
            assert _TEST.search(text), number
        if standing != "holds":
            assert re.search(r"\w{3}", _TEST.sub("", text)), number
