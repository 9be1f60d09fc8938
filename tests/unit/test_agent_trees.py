"""Directory trees as the agent reads and removes them, and files that take their names at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from yurt_agent import walk as walking
from yurt_agent.errors import InvalidPathError
from yurt_agent.newfile import NewFile
from yurt_agent.paths import open_regular
from yurt_agent.walk import remove_tree, walk

pytestmark = pytest.mark.unit


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def below(top: Path, depth: int | None = None) -> list[str]:
    return [os.fsdecode(os.path.relpath(e.path, os.fsencode(top))) for e in walk(bytes(top), depth)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "b" / "deep").mkdir(parents=True)
    (top / "b" / "deep" / "f").touch()
    (top / "a").touch()
    (top / "c").symlink_to("b")
    (top / "d").symlink_to("nowhere")
    return top


def test_a_tree_is_walked_in_order_and_links_are_not_followed(tree: Path) -> None:
    assert below(tree) == ["a", "b", "b/deep", "b/deep/f", "c", "d"]


def test_depth_bounds_the_walk(tree: Path) -> None:
    assert below(tree, 1) == ["a", "b", "c", "d"]
    assert below(tree, 2) == ["a", "b", "b/deep", "c", "d"]


def test_a_directory_beyond_the_sorted_part_is_walked_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "SORTED_ENTRIES", 5)
    for index in range(20):
        (tmp_path / f"{index:02d}").mkdir()
    found = below(tmp_path)
    assert sorted(found) == [f"{index:02d}" for index in range(20)]
    assert found[:5] == sorted(found[:5])


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    assert below(tmp_path) == ["loop"]


@pytest.mark.parametrize("batch", [1, 3, 50_000])
def test_a_tree_is_removed_and_what_links_lead_to_stays(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(walking, "SORTED_ENTRIES", batch)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tree / "b" / "out").symlink_to(outside)
    for index in range(10):
        (tree / "many" / str(index) / "x").mkdir(parents=True)
    remove_tree(bytes(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_a_tree_deeper_than_the_longest_path_is_removed(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    here = top
    for _ in range(1100):
        os.mkdir("dddd", dir_fd=here)
        there = os.open("dddd", os.O_RDONLY, dir_fd=here)
        if here != top:
            os.close(here)
        here = there
    os.close(here)
    os.close(top)
    before = open_files()
    remove_tree(bytes(tmp_path / "dddd"))
    assert listing(tmp_path) == []
    assert open_files() == before


def test_a_link_to_a_directory_is_no_tree(tree: Path) -> None:
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        remove_tree(bytes(tree / "c"))
    assert (tree / "b").is_dir()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "x")
    with pytest.raises(InvalidPathError):
        open_regular(bytes(tmp_path / "x"))


def new(path: Path, content: bytes) -> NewFile:
    file = NewFile(bytes(path))
    file.write(content)
    file.complete()
    return file


def test_a_new_file_appears_with_its_parents_at_the_commit_only(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "c"
    file = new(target, b"content")
    assert not (tmp_path / "a").exists()
    file.commit()
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert listing(target.parent) == ["c"]
    assert listing(tmp_path) == ["a"]


def test_a_discarded_file_leaves_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    new(target, b"new").discard()
    new(tmp_path / "x" / "y", b"new").discard()
    file = NewFile(bytes(target))
    file.write(b"half")
    file.discard()
    assert target.read_bytes() == b"old"
    assert listing(tmp_path) == ["f"]


def test_a_replaced_file_keeps_its_mode_without_set_user_id(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.touch()
    target.chmod(0o4750)
    new(target, b"new").commit()
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("later")
    new(tmp_path / "link", b"new").commit()
    new(tmp_path / "dangling", b"made").commit()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "later").read_bytes() == b"made"


@pytest.mark.parametrize("kind", ["fifo", "directory", "dots"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    name = ".." if kind == "dots" else kind
    with pytest.raises(InvalidPathError):
        NewFile(bytes(tmp_path / name))
    assert listing(tmp_path) == ["directory", "fifo"]


def test_a_name_that_comes_later_gets_the_content(tmp_path: Path) -> None:
    file = NewFile.unnamed()
    file.write(b"content" * 1000)
    file.complete()
    named = file.named(bytes(tmp_path / "a" / "b"))
    named.commit()
    assert (tmp_path / "a" / "b").read_bytes() == b"content" * 1000
    assert named.size == 7000


def test_a_file_that_cannot_be_replaced_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mounted"
    target.write_bytes(b"old and longer")
    inode = target.stat().st_ino

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    new(target, b"new").commit()
    assert target.read_bytes() == b"new"
    assert target.stat().st_ino == inode
    assert listing(tmp_path) == ["mounted"]
