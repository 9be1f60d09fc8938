"""Uploads as forms: however the bytes are cut, the same files come out, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from yurt_agent.errors import BodyTooLargeError, InvalidBodyError
from yurt_agent.multipart import Form
from yurt_agent.upload import PATH_LIMIT, Many, One

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

BOUNDARY = b"XyZ"
CONTENT_TYPE = 'multipart/form-data; boundary="XyZ"'

# Contents that look like the boundary, or like the beginning of one.
contents = st.lists(
    st.sampled_from([b"\r\n--XyZ!", b"\r\n--Xy", b"\r", b"\n", b"--", b"-", b"\0", b"text"]),
    max_size=12,
).map(b"".join)


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def part(name: str, content: bytes, extra: bytes = b"") -> bytes:
    head = f'--XyZ\r\nContent-Disposition: form-data; name="{name}"'.encode()
    return head + extra + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XyZ--\r\n"


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(body[:size])
        body = body[size:]
    return [*chunks, body]


def send(receiver: Many | One, chunks: list[bytes]) -> None:
    parser = Form(CONTENT_TYPE, receiver)
    for chunk in chunks:
        parser.feed([chunk])
    parser.finish()


@quick
@given(
    files=st.lists(contents, min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 40), max_size=60),
    order=st.randoms(use_true_random=False),
)
def test_any_chunking_and_any_order_give_the_same_files(
    tmp_path: Path, files: list[bytes], sizes: list[int], order: object
) -> None:
    parts = []
    for index, content in enumerate(files):
        parts.append(part(f"files[{index}].path", f"{index}/file".encode()))
        parts.append(part(f"files[{index}].file", content, b'; filename="ignored"'))
    order.shuffle(parts)  # type: ignore[attr-defined]
    many = Many(str(tmp_path))
    send(many, cut(form(*parts), sizes))
    assert many.errors == []
    found = {str(item["path"]): item["bytes"] for item in many.files}
    assert found == {f"{index}/file": len(content) for index, content in enumerate(files)}
    for index, content in enumerate(files):
        assert (tmp_path / str(index) / "file").read_bytes() == content
        (tmp_path / str(index) / "file").unlink()


@quick
@given(content=contents, sizes=st.lists(st.integers(1, 9), max_size=30), at=st.integers(1, 200))
def test_a_form_that_ends_in_the_middle_changes_nothing(
    tmp_path: Path, content: bytes, sizes: list[int], at: int
) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")
    body = form(part("files[0].path", bytes(old)), part("files[0].file", content))
    whole = body.removesuffix(b"--\r\n")
    receiver = Many(str(tmp_path))
    parser = Form(CONTENT_TYPE, receiver)
    parser.feed(cut(whole[: min(at, len(whole))], sizes))
    with pytest.raises(InvalidBodyError, match="middle"):
        parser.finish()
    parser.discard()
    assert listing(tmp_path) == ["old"]
    assert old.read_bytes() == b"old"


def test_names_that_are_not_utf_8_arrive_byte_for_byte(tmp_path: Path) -> None:
    name = b'\xff\xfe "quoted" \n\xe2\x80\xae.txt'
    many = Many(str(tmp_path))
    send(many, [form(part("files[0].path", name), part("files[0].file", b"x"))])
    assert [bytes(path).rpartition(b"/")[2] for path in tmp_path.iterdir()] == [name]


def test_files_that_fail_are_reported_and_do_not_hinder_others(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    many = Many(str(tmp_path))
    send(
        many,
        [
            form(
                part("files[0].path", b"directory"),
                part("files[0].file", b"x"),
                part("files[1].path", b"good"),
                part("files[1].file", b"content"),
                part("files[2].path", b"file/below"),
                part("files[2].file", b"x"),
                part("files[3].path", b"nothing sent"),
                part("files[4].file", b"no path"),
                part("files[5].path", b""),
                part("files[5].file", b"x"),
                part("other", b"ignored"),
                part("files[x].path", b"ignored"),
            )
        ],
    )
    assert many.files == [{"path": "good", "bytes": 7}]
    assert len(many.errors) == 5
    assert listing(tmp_path) == ["directory", "file", "good"]


@pytest.mark.parametrize(
    "parts",
    [
        (part("files[0].path", b"a"), part("files[0].path", b"b")),
        (part("files[0].file", b"a"), part("files[0].file", b"b")),
        (b"--XyZ\r\n\r\nno name\r\n",),
        (b"--XyZ\r\n" + b"A: b\r\n" * 100 + b"\r\n\r\n",),
        (b"--XyZ\r\nA: " + b"b" * 100_000 + b"\r\n\r\n\r\n",),
        (b"no boundary",),
    ],
    ids=["two paths", "two files", "no name", "many headers", "long header", "no form"],
)
def test_what_is_no_form_is_refused_and_leaves_nothing(
    tmp_path: Path, parts: tuple[bytes, ...]
) -> None:
    many = Many(str(tmp_path))
    with pytest.raises(InvalidBodyError):
        send(many, [form(*parts)])
    many.discard()
    assert listing(tmp_path) == []


def test_a_path_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BodyTooLargeError):
        send(Many(str(tmp_path)), [form(part("files[0].path", b"x" * (PATH_LIMIT + 1)))])


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data", "multipart/x;y"])
def test_a_form_needs_a_boundary(tmp_path: Path, content_type: str) -> None:
    with pytest.raises(InvalidBodyError):
        Form(content_type, Many(str(tmp_path)))


def test_the_field_named_file_is_the_file(tmp_path: Path) -> None:
    target = bytes(tmp_path / "a" / "f")
    receiver = One("a/f", target, raw=False)
    send(receiver, [form(part("note", b"x"), part("file", b"content"), part("file", b"second"))])
    assert (tmp_path / "a" / "f").read_bytes() == b"content"


def test_a_form_without_the_field_named_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBodyError, match="file"):
        send(One("f", bytes(tmp_path / "f"), raw=False), [form(part("note", b"x"))])
    assert listing(tmp_path) == []


def test_an_empty_raw_body_is_an_empty_file(tmp_path: Path) -> None:
    One("f", bytes(tmp_path / "f"), raw=True).finish()
    assert (tmp_path / "f").read_bytes() == b""
