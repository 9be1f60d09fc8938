"""The object store of archives: a directory, and a real server that speaks S3."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from jobs.runner.objects import PART_BYTES, ObjectError, Objects
from tests.support.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on PATH"),
]


@pytest.fixture(params=["directory", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "directory":
        return {"url": f"file://{tmp_path}/store", "options": {}}
    running: S3Server = request.getfixturevalue("s3")
    return running.where(tmp_path.name)


def content(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 1])
def test_an_object_comes_back_as_it_was_stored(where: dict[str, Any], size: int) -> None:
    store, stored = Objects(where), content(size)
    store.write("a/1", (stored[at : at + 70_000] for at in range(0, size, 70_000)))
    assert b"".join(store.read("a/1")) == stored
    assert b"".join(Objects(where).read("a/1")) == stored


def test_what_is_removed_is_gone_and_nothing_else(where: dict[str, Any]) -> None:
    store = Objects(where)
    for name in ("a/1", "a/2", "ab/1"):
        store.write(name, [b"x"])
    assert sorted(store.names("a/")) == ["a/1", "a/2"]
    store.remove("a/2")
    store.remove("a/2")
    assert store.names("a/") == ["a/1"]
    for _ in range(2):
        store.remove_all("a/")
    assert (store.names("a/"), store.names("ab/")) == ([], ["ab/1"])
    with pytest.raises(ObjectError, match="not found"):
        list(store.read("a/1"))


def test_what_is_given_up_halfway_never_appears(where: dict[str, Any]) -> None:
    store = Objects(where)

    def broken() -> Iterator[bytes]:
        yield from itertools.repeat(bytes(1 << 20), 20)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.write("a/1", broken())
    assert store.names("a/") == []
    with pytest.raises(ObjectError):
        list(store.read("a/1"))
    store.remove_all("a/")
    store.write("a/1", [b"whole"])
    assert b"".join(store.read("a/1")) == b"whole"


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    where = {**s3.where(), "url": "s3://nowhere/x"}
    for use in (
        lambda store: store.write("a", [b"x"]),
        lambda store: list(store.read("a")),
        lambda store: store.names(""),
    ):
        with pytest.raises(ObjectError, match="s3://nowhere/x cannot be used"):
            use(Objects(where))


def test_a_server_that_ends_in_the_middle_is_an_error_and_not_half_an_object(
    tmp_path: Path,
) -> None:
    with S3Server(tmp_path / "log") as server:
        store = Objects(server.where())

        def cut() -> Iterator[bytes]:
            yield bytes(3 * PART_BYTES)
            server.stop()
            yield bytes(3 * PART_BYTES)

        with pytest.raises(ObjectError, match="cannot be used"):
            store.write("a/1", cut())
        server.start()
        assert store.names("a/") == []
        store.write("a/1", [b"again"])
        assert b"".join(store.read("a/1")) == b"again"
        assert "some/where/a/1" in server.kept()
