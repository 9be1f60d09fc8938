"""Ids, hosts and paths are written and read by functions that undo each other."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from control.naming import (
    PreviewHost,
    SandboxId,
    is_sandbox_id,
    is_sandbox_name,
    new_sandbox_id,
    parse_port,
    parse_preview_host,
    parse_toolbox_path,
    preview_host,
    split_host,
)

pytestmark = pytest.mark.unit

ID = SandboxId("23ocbyxduvxi4h3qfgxszz4fjx")
base32 = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26)


def test_ids_have_the_form_that_hosts_and_paths_take() -> None:
    assert all(is_sandbox_id(new_sandbox_id()) for _ in range(100))


@given(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 48) - 1))
def test_ids_sort_by_time(one: int, other: int) -> None:
    earlier, later = sorted((one, other))
    if earlier < later:
        assert new_sandbox_id(earlier) < new_sandbox_id(later)


def test_ids_do_not_repeat_within_a_millisecond() -> None:
    assert len({new_sandbox_id(5) for _ in range(1000)}) == 1000


@given(st.integers(1, 65535), base32, st.none() | base32.map(lambda text: text[:23]))
def test_a_preview_host_is_read_as_it_was_written(
    port: int, sandbox_id: str, signature: str | None
) -> None:
    host = PreviewHost(port, SandboxId(sandbox_id), signature)
    written = preview_host(host, "preview.example.org")
    assert len(written.split(".")[0]) <= 63
    assert parse_preview_host(written.upper(), ("preview.example.org",)) == host


@pytest.mark.parametrize(
    "name",
    [
        f"0-{ID}.localhost",
        f"08080-{ID}.localhost",
        f"65536-{ID}.localhost",
        f"80-{ID}",
        f"80-{ID}.localhost.",
        f"80-{ID}.localhost.evil.org",
        f"80-{ID}.x.localhost",
        f"80-{ID}a.localhost",
        f"80-{ID[:-1]}.localhost",
        f"80-{ID}-short.localhost",
        f"80-{ID}-{'1' * 23}.localhost",
        f"-80-{ID}.localhost",
        f"\uff180-{ID}.localhost",
        f"80-{ID}.localhost\n",
        "",
    ],
)
def test_what_is_nearly_a_preview_host_is_none(name: str) -> None:
    assert parse_preview_host(name, ("localhost",)) is None


@pytest.mark.parametrize(
    "path",
    [
        f"/toolbox/{ID}",
        f"/toolbox/{ID}/",
        f"/toolbox/{ID}/files?x",
        f"/api/toolbox/{ID}/toolbox",
        f"/api/toolbox/{ID}/toolbox/process/execute",
    ],
)
def test_toolbox_paths_of_both_dialects_name_their_sandbox(path: str) -> None:
    assert parse_toolbox_path(path.partition("?")[0]) == ID


@pytest.mark.parametrize(
    "path",
    [
        f"/toolbox/{ID}x/files",
        f"/toolbox/{ID.upper()}/files",
        f"/toolbox//{ID}",
        f"//toolbox/{ID}",
        f"/api/toolbox/{ID}/files",
        f"/api/toolbox/{ID}/toolboxes",
        f"/x/toolbox/{ID}",
        f"/toolbox/%32{ID[1:]}/files",
    ],
)
def test_what_is_nearly_a_toolbox_path_is_none(path: str) -> None:
    assert parse_toolbox_path(path) is None


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("LOCALHOST:9878", ("localhost", "9878")),
        ("localhost", ("localhost", "")),
        ("[::1]:80", ("[::1]", "80")),
        ("[::1]", ("[::1]", "")),
        ("127.0.0.1:1", ("127.0.0.1", "1")),
    ],
)
def test_a_host_field_is_split(field: str, expected: tuple[str, str]) -> None:
    assert split_host(field) == expected


def test_a_name_can_never_hide_an_id() -> None:
    assert not is_sandbox_name(ID)
    assert is_sandbox_name("My.box_1-x")
    for name in ("", "-x", "a/b", "a b", "x" * 129, "ü", "a\n"):
        assert not is_sandbox_name(name)


def test_ports_are_read_strictly() -> None:
    assert [parse_port(text) for text in ("1", "65535", "080")] == [1, 65535, 80]
    assert [parse_port(text) for text in ("0", "65536", "-1", "1.0", "", "٣")] == [None] * 6
