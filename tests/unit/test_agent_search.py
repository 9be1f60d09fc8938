"""Searching and replacing in blocks gives what doing it at once would."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from yurt_agent import search

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
# Few letters, so that needles occur, overlap and straddle blocks.
texts = st.lists(st.sampled_from([b"a", b"b", b"\n", b"ab"]), max_size=60).map(b"".join)
needles = st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=4).map(b"".join)


def naive(content: bytes, needle: bytes) -> list[tuple[int, bytes]]:
    lines = content.split(b"\n")
    return [(number, line) for number, line in enumerate(lines, 1) if needle in line]


@quick
@given(content=texts, needle=needles, block=st.integers(1, 80))
def test_matches_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, needle: bytes, block: int
) -> None:
    monkeypatch.setattr(search, "BLOCK", block)
    (tmp_path / "f").write_bytes(content)
    with io.FileIO(tmp_path / "f") as file:
        found = list(search.matches(file, needle))
    expected = naive(content, needle)
    assert [number for number, _ in found] == [number for number, _ in expected]
    if block > len(content):
        assert found == expected


@quick
@given(
    content=texts, old=needles, new=st.sampled_from([b"", b"a", b"xyz"]), block=st.integers(1, 9)
)
def test_replacing_does_not_depend_on_blocks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    old: bytes,
    new: bytes,
    block: int,
) -> None:
    monkeypatch.setattr(search, "BLOCK", block)
    monkeypatch.setattr(search, "REPLACE_BLOCK", block)
    target = tmp_path / "f"
    target.write_bytes(content)
    search.replace_in(bytes(target), old, new)
    assert target.read_bytes() == content.replace(old, new)


def test_a_file_without_a_match_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"text")
    before = target.stat()
    search.replace_in(bytes(target), b"other", b"x")
    assert target.stat() == before


@pytest.mark.timeout(10)
def test_a_pattern_with_line_breaks_ends(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\n\n\nb\n" * 1000)
    with io.FileIO(tmp_path / "f") as file:
        assert len(list(search.matches(file, b"\n\n"))) >= 1000


def test_binary_files_have_no_matches(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"needle\0needle\n")
    with io.FileIO(tmp_path / "f") as file:
        assert list(search.matches(file, b"needle")) == []


def test_a_very_long_line_is_quoted_around_the_match(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"first\n" + b"x" * 3_000_000 + b"needle" + b"y" * 3_000_000)
    with io.FileIO(tmp_path / "f") as file:
        ((number, content),) = search.matches(file, b"needle")
    assert number == 2
    assert b"needle" in content
    assert len(content) <= search.CONTENT_BYTES
