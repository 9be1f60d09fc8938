"""The agent's file routes, in a process of its own over loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.agent_rig import SECRET, AgentRig, Answer, running_agent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.contract

is_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")
MIB = 1 << 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def rig(home: Path) -> Iterator[AgentRig]:
    with running_agent(workdir=str(home)) as agent:
        yield agent


@pytest.fixture
def agent(rig: AgentRig, home: Path) -> AgentRig:
    """The module's agent with an empty work directory."""
    for path in home.iterdir():
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)
    return rig


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        f'--B0unD\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in parts
    )
    return body + b"--B0unD--\r\n", {"Content-Type": "multipart/form-data; boundary=B0unD"}


def upload(agent: AgentRig, *files: tuple[str | bytes, bytes]) -> Answer:
    parts: list[tuple[str, bytes]] = []
    for index, (path, _) in enumerate(files):
        raw = path.encode() if isinstance(path, str) else path
        parts.append((f"files[{index}].path", raw))
    parts += [(f"files[{index}].file", content) for index, (_, content) in enumerate(files)]
    body, headers = form(*parts)
    return agent.request("POST", "/files/bulk-upload", body, headers=headers)


def is_error(answer: Answer, status: int, code: str) -> bool:
    body = answer.json()
    complete = {"statusCode", "message", "timestamp", "path", "method", "code", "source"}
    assert complete <= set(body)
    assert body["source"] == "DAYTONA_DAEMON"
    assert body["statusCode"] == answer.status
    return (answer.status, body["code"]) == (status, code)


# What every client does first.


def test_directories_and_version(agent: AgentRig, home: Path) -> None:
    assert agent.request("GET", "/work-dir").json() == {"dir": str(home)}
    assert (
        agent.request("GET", "/project-dir").json() == agent.request("GET", "/user-home-dir").json()
    )
    assert set(agent.request("GET", "/version").json()) == {"version"}


def test_a_get_with_a_json_content_type_and_no_body_is_fine(agent: AgentRig) -> None:
    headers = {"Content-Type": "application/json"}
    assert agent.request("GET", "/files", headers=headers).json() == []
    assert agent.request("GET", "/project-dir", headers=headers).status == 200


def test_an_unknown_route_names_itself(agent: AgentRig) -> None:
    answer = agent.request("POST", "/no/such%20route")
    assert is_error(answer, 404, "NOT_FOUND")
    assert answer.json()["message"] == "Cannot POST /no/such route"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(agent: AgentRig, body: bytes) -> None:
    answer = agent.request("POST", "/files/bulk-download", body)
    assert is_error(answer, 400, "INVALID_REQUEST_BODY")


def test_a_body_without_end_is_refused(agent: AgentRig) -> None:
    answer = agent.request("POST", "/files/replace", b'{"x":"' + b"x" * (17 * MIB))
    assert is_error(answer, 413, "BODY_TOO_LARGE")


def test_metrics_are_plausible(agent: AgentRig) -> None:
    body = agent.request("GET", "/system/metrics").json()
    assert 0 <= body["cpuUsedPct"] <= 100
    assert body["cpuCount"] >= 1
    assert body["memTotal"] >= body["memUsed"] >= 0
    assert body["diskTotal"] >= body["diskUsed"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])


def test_ports_in_use_are_told(agent: AgentRig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # The wire knows 3000 to 9999 only.
        assert agent.request("GET", f"/port/{port}/in-use").status == (
            200 if 3000 <= port < 10000 else 400
        )
    for port in range(9000, 10000):
        try:
            listener = socket.create_server(("127.0.0.1", port))
        except OSError:
            continue
        with listener:
            assert agent.request("GET", f"/port/{port}/in-use").json() == {"isInUse": True}
            assert port in agent.request("GET", "/port").json()["ports"]
        assert agent.request("GET", f"/port/{port}/in-use").json() == {"isInUse": False}
        break


# Looking.


@pytest.mark.parametrize("route", ["/files", "/files/"])
def test_a_listing_has_all_that_clients_require(agent: AgentRig, home: Path, route: str) -> None:
    (home / "f").write_bytes(b"12345")
    (home / "f").chmod(0o640)
    os.utime(home / "f", ns=(0, 1_700_000_000_123_456_789))
    (home / "d").mkdir()
    (home / "link").symlink_to("d")
    (home / "dangling").symlink_to("nowhere")
    found = {entry["name"]: entry for entry in agent.request("GET", route).json()}
    assert list(found) == ["d", "dangling", "f", "link"]
    assert found["f"] == {
        "name": "f",
        "path": str(home / "f"),
        "isDir": False,
        "size": 5,
        "mode": "-rw-r-----",
        "permissions": "0640",
        "owner": str(os.getuid()),
        "group": str(os.getgid()),
        "modTime": "2023-11-14 22:13:20.123456789 +0000 UTC",
        "modifiedAt": "2023-11-14T22:13:20.123456Z",
    }
    assert found["link"]["isDir"] is True
    assert found["dangling"]["mode"].startswith("l")


def test_depth_lists_below(agent: AgentRig, home: Path) -> None:
    (home / "a" / "b" / "c").mkdir(parents=True)
    paths = [e["path"] for e in agent.request("GET", "/files", path="a", depth=2).json()]
    assert paths == [str(home / "a" / "b"), str(home / "a" / "b" / "c")]
    for depth in ("0", "-1", "x", "1.5", "9" * 30):
        assert agent.request("GET", "/files", depth=depth).status == 400


def test_info_follows_links(agent: AgentRig, home: Path) -> None:
    (home / "f").write_bytes(b"123")
    (home / "link").symlink_to("f")
    assert agent.request("GET", "/files/info", path="link").json()["size"] == 3
    assert is_error(agent.request("GET", "/files/info", path="x"), 404, "FILE_NOT_FOUND")
    assert is_error(agent.request("GET", "/files/info"), 400, "BAD_REQUEST")


def test_strange_times_do_not_spoil_a_listing(agent: AgentRig, home: Path) -> None:
    for name, seconds in (("a", -(2**31)), ("b", 2**33), ("c", 0)):
        (home / name).touch()
        os.utime(home / name, (seconds, seconds))
    assert len(agent.request("GET", "/files").json()) == 3


def test_a_hundred_thousand_entries_are_listed_in_little_memory(home: Path) -> None:
    directory = home.parent / "many"
    directory.mkdir()
    for index in range(100_000):
        os.mknod(directory / f"{index:06d}")
    try:
        with running_agent() as agent:
            before = agent.memory_kib()
            started = time.monotonic()
            entries = agent.request("GET", "/files", path=str(directory)).json()
            assert time.monotonic() - started < 20
            assert len({entry["name"] for entry in entries}) == 100_000
            assert agent.memory_kib() - before < 40 * 1024
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)


# Arranging.


def test_folders_are_made_with_parents_and_may_be_there(agent: AgentRig, home: Path) -> None:
    for mode in ("700", "0711"):
        answer = agent.request("POST", "/files/folder", path="a/b", mode=mode)
        assert (answer.status, answer.body) == (201, b"")
    assert stat.S_IMODE((home / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "a").stat().st_mode) == 0o755
    (home / "f").touch()
    assert is_error(agent.request("POST", "/files/folder", path="f"), 400, "INVALID_FILE_PATH")
    assert is_error(agent.request("POST", "/files/folder", path="f/x"), 400, "INVALID_FILE_PATH")
    assert agent.request("POST", "/files/folder", path="c", mode="999").status == 400


def test_deleting(agent: AgentRig, home: Path) -> None:
    (home / "d" / "sub").mkdir(parents=True)
    (home / "d" / "f").touch()
    (home / "link").symlink_to("d")
    assert agent.request("DELETE", "/files", path="d").status == 400
    assert agent.request("DELETE", "/files", path="link/").status == 204
    assert agent.request("DELETE", "/files", path="d/f").status == 204
    assert agent.request("DELETE", "/files", path="d", recursive="true").status == 204
    assert is_error(agent.request("DELETE", "/files", path="d"), 404, "FILE_NOT_FOUND")
    assert names(home) == []
    assert agent.request("DELETE", "/files", path="/", recursive="true").status == 400


def test_moving_never_overwrites(agent: AgentRig, home: Path) -> None:
    (home / "a").write_bytes(b"a")
    (home / "b").write_bytes(b"b")
    move = "/files/move"
    assert is_error(agent.request("POST", move, source="a", destination="b"), 409, "CONFLICT")
    answer = agent.request("POST", move, source="x", destination="y")
    assert is_error(answer, 404, "FILE_NOT_FOUND")
    answer = agent.request("POST", move, source="a", destination="no/parent")
    assert is_error(answer, 404, "FILE_NOT_FOUND")
    assert agent.request("POST", move, source="a", destination="c").status == 200
    assert {name: (home / name).read_bytes() for name in names(home)} == {"b": b"b", "c": b"a"}


def test_moving_to_another_file_system_copies(agent: AgentRig, home: Path) -> None:
    other = Path("/dev/shm") / f"yurt-{os.getpid()}"
    if not other.parent.is_dir() or other.parent.stat().st_dev == home.stat().st_dev:
        pytest.skip("no second file system")
    (home / "d").mkdir()
    (home / "d" / "f").write_bytes(b"content")
    (home / "d" / "link").symlink_to("f")
    answer = agent.request("POST", "/files/move", source="d", destination=str(other))
    try:
        assert answer.status == 200
        assert (other / "link").readlink() == Path("f")
        assert (other / "f").read_bytes() == b"content"
        assert names(home) == []
    finally:
        subprocess.run(["rm", "-rf", other], check=True)


def test_permissions_take_mode_owner_and_group(agent: AgentRig, home: Path) -> None:
    (home / "f").touch()
    me: dict[str, Any] = {"owner": str(os.getuid()), "group": str(os.getgid())}
    answer = agent.request("POST", "/files/permissions", path="f", mode="600", **me)
    assert (answer.status, answer.body) == (200, b"")
    assert stat.S_IMODE((home / "f").stat().st_mode) == 0o600
    wrong: list[dict[str, Any]] = [
        {"mode": "rwx"},
        {"mode": "77777"},
        {"owner": "-"},
        {"group": "-1"},
    ]
    for bad in wrong:
        answer = agent.request("POST", "/files/permissions", path="f", **bad)
        assert is_error(answer, 400, "BAD_REQUEST")
    answer = agent.request("POST", "/files/permissions", path="x", mode="600")
    assert is_error(answer, 404, "FILE_NOT_FOUND")


# Contents.


def test_an_upload_makes_parents_and_a_download_returns_it(agent: AgentRig, home: Path) -> None:
    content = os.urandom(3 * MIB)
    assert upload(agent, ("a/b/c.bin", content)).json() == {
        "files": [{"path": "a/b/c.bin", "bytes": len(content)}]
    }
    answer = agent.request("GET", "/files/download", path="a/b/c.bin")
    assert answer.body == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["content-disposition"].startswith('attachment; filename="c.bin"')


@pytest.mark.parametrize("route", ["/files/upload", "/files/upload-v2"])
def test_one_file_is_taken_raw_or_as_a_form(agent: AgentRig, home: Path, route: str) -> None:
    answer = agent.request("POST", route, b"raw", path="d/f")
    assert answer.json() == {"name": "f", "path": "d/f", "type": "file"}
    assert (home / "d" / "f").read_bytes() == b"raw"
    body, headers = form(("file", b"in a form"))
    assert agent.request("POST", route, body, headers=headers, path="d/f").status == 200
    assert (home / "d" / "f").read_bytes() == b"in a form"


def test_a_chunked_upload_is_taken(agent: AgentRig, home: Path) -> None:
    body, headers = form(("files[0].path", b"f"), ("files[0].file", b"x" * MIB))
    pieces = (body[at : at + 7777] for at in range(0, len(body), 7777))
    assert agent.request("POST", "/files/bulk-upload", pieces, headers=headers).status == 200
    assert (home / "f").stat().st_size == MIB


def test_uploads_that_fail_are_named_and_others_are_kept(agent: AgentRig, home: Path) -> None:
    (home / "d").mkdir()
    answer = upload(agent, ("d", b"x"), ("good", b"y"))
    assert is_error(answer, 400, "INVALID_FILE_PATH")
    assert answer.json()["files"] == [{"path": "good", "bytes": 1}]
    assert len(answer.json()["errors"]) == 1
    assert names(home) == ["d", "good"]


@pytest.mark.parametrize("kind", ["raw", "form"])
def test_a_body_that_is_cut_off_changes_nothing(agent: AgentRig, home: Path, kind: str) -> None:
    (home / "f").write_bytes(b"old")
    body, headers = form(("files[0].path", b"f"), ("files[0].file", b"new" * MIB))
    route = "/files/bulk-upload"
    if kind == "raw":
        body, headers, route = b"new" * MIB, {"Content-Type": "x/y"}, "/files/upload-v2?path=f"
    connection = agent.connect()
    head = f"POST {route} HTTP/1.1\r\nX-Yurt-Secret: {SECRET}\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Content-Type: {headers['Content-Type']}\r\n\r\n".encode())
    connection.sendall(body[: 2 * MIB])
    eventually(lambda: len(names(home)) == 2, "the temporary file")
    connection.close()
    eventually(lambda: names(home) == ["f"], "no temporary file")
    assert (home / "f").read_bytes() == b"old"


def test_a_stop_in_the_middle_of_an_upload_leaves_nothing(home: Path) -> None:
    directory = home.parent / "stopped"
    directory.mkdir()
    with running_agent(workdir=str(directory)) as agent:
        connection = agent.connect()
        head = f"POST /files/upload-v2?path=f HTTP/1.1\r\nX-Yurt-Secret: {SECRET}\r\n"
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 500_000)
        eventually(lambda: len(names(directory)) == 1, "the temporary file")
        assert agent.stop() == 0
        connection.close()
    assert names(directory) == []


def test_a_full_disk_is_told_and_nothing_is_half_done(small_disk: Path) -> None:
    (small_disk / "f").write_bytes(b"old")
    with running_agent(workdir=str(small_disk)) as agent:
        answers = [
            agent.request("POST", "/files/upload-v2", b"x" * (8 * MIB), path="f"),
            upload(agent, ("g", b"fits"), ("f", b"x" * (8 * MIB)), ("h", b"fits")),
        ]
        for answer in answers:
            assert is_error(answer, 507, "INSUFFICIENT_STORAGE")
            assert "no space left" in answer.json()["message"]
        (small_disk / "f").write_bytes(b"aa" * MIB)
        body: dict[str, Any] = {"files": ["f"], "pattern": "a", "newValue": "bbbbbb"}
        (result,) = agent.request("POST", "/files/replace", body).json()
        assert result["success"] is False
        assert "no space left" in result["error"]
    assert names(small_disk) == ["f"]
    assert (small_disk / "f").read_bytes() == b"aa" * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("needs root to mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_file_that_is_a_mount_is_written_in_place(
    agent: AgentRig, home: Path, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to mount")
    (home / "hosts").touch()
    (tmp_path / "source").write_bytes(b"old and longer")
    subprocess.run(["mount", "--bind", tmp_path / "source", home / "hosts"], check=True)
    try:
        assert upload(agent, ("hosts", b"new")).status == 200
        assert (tmp_path / "source").read_bytes() == b"new"
        assert names(home) == ["hosts"]
    finally:
        subprocess.run(["umount", home / "hosts"], check=True)


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("nonsense", 200, b"0123456789", None),
    ],
)
def test_one_range_is_answered(
    agent: AgentRig, home: Path, header: str, status: int, body: bytes, content_range: str | None
) -> None:
    (home / "f").write_bytes(b"0123456789")
    answer = agent.request("GET", "/files/download", headers={"Range": header}, path="f")
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("content-range") == content_range


def test_a_range_outside_is_refused_and_one_of_another_version_is_not_used(
    agent: AgentRig, home: Path
) -> None:
    (home / "f").write_bytes(b"0123456789")
    answer = agent.request("GET", "/files/download", headers={"Range": "bytes=10-"}, path="f")
    assert is_error(answer, 416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == "bytes */10"
    headers = {"Range": "bytes=0-0", "If-Range": '"other"'}
    assert agent.request("GET", "/files/download", headers=headers, path="f").status == 200
    headers["If-Range"] = agent.request("HEAD", "/files/download", path="f").headers["etag"]
    assert agent.request("GET", "/files/download", headers=headers, path="f").status == 206


def test_a_download_answers_head(agent: AgentRig, home: Path) -> None:
    (home / "f").write_bytes(b"0123456789")
    answer = agent.request("HEAD", "/files/download", path="f")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "10", b"")


def test_files_that_claim_no_size_are_read(agent: AgentRig, home: Path) -> None:
    answer = agent.request("GET", "/files/download", path="/proc/version")
    assert answer.body == Path("/proc/version").read_bytes()
    (home / "empty").touch()
    assert agent.request("GET", "/files/download", path="empty").body == b""


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "path", ["fifo", "socket", "/dev/zero", "/dev/tty", "/dev/null", ".", "link-to-fifo"]
)
def test_what_is_no_regular_file_is_refused_without_hanging(
    agent: AgentRig, home: Path, path: str
) -> None:
    os.mkfifo(home / "fifo")
    (home / "link-to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
        if not (home / path).exists():
            pytest.skip(f"no {path} here")
        answer = agent.request("GET", "/files/download", path=path)
        assert is_error(answer, 400, "INVALID_FILE_PATH")
        assert agent.request("POST", "/files/upload-v2", b"x", path=path).status == 400
        assert upload(agent, (path, b"x")).status == 400
        agent.request("GET", "/files/find", path=".", pattern="x")
        body = {"files": [path], "pattern": "x", "newValue": "y"}
        assert agent.request("POST", "/files/replace", body).json()[0]["success"] is False


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("none", 404, "FILE_NOT_FOUND"),
        ("file/below", 400, "INVALID_FILE_PATH"),
        ("x" * 300, 400, "INVALID_FILE_PATH"),
        ("x/" * 3000, 400, "INVALID_FILE_PATH"),
        ("loop", 400, "INVALID_FILE_PATH"),
        ("nul\0", 400, "INVALID_FILE_PATH"),
        ("/proc/self/fd/nothing", 404, "FILE_NOT_FOUND"),
    ],
)
@pytest.mark.parametrize("route", ["/files/info", "/files/download", "/files"])
def test_paths_that_lead_nowhere_say_why(
    agent: AgentRig, home: Path, route: str, path: str, status: int, code: str
) -> None:
    (home / "file").touch()
    (home / "loop").symlink_to("loop")
    answer = agent.request("GET", route, path=path)
    if (route, path) == ("/files/info", "loop"):
        pytest.skip("a link itself has information")
    assert is_error(answer, status, code)


# Many at once.


def parts_of(answer: Answer) -> list[tuple[str, bytes, dict[str, str], bytes]]:
    """Take a multipart answer apart by lengths alone, as a strict client would."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    rest, found = answer.body, []
    while not rest.startswith(b"--" + boundary + b"--\r\n"):
        assert rest.startswith(b"--" + boundary + b"\r\n")
        head, _, rest = rest.removeprefix(b"--" + boundary + b"\r\n").partition(b"\r\n\r\n")
        pairs = [line.partition(b": ") for line in head.split(b"\r\n")]
        headers = {name.decode().lower(): value.decode("latin-1") for name, _, value in pairs}
        match = re.fullmatch(
            r"form-data; name=\"(\w+)\"; filename=\"(.*)\"; filename\*=utf-8''(\S*)",
            headers["content-disposition"],
            re.DOTALL,
        )
        assert match is not None
        plain = match[2].replace('\\"', '"').replace("\\\\", "\\").encode("latin-1")
        exact = unquote_to_bytes(match[3])
        if b"\n" not in exact and b"\r" not in exact:
            assert plain == exact
        size = int(headers["content-length"])
        found.append((match[1], exact, headers, rest[:size]))
        assert rest[size : size + 2] == b"\r\n"
        rest = rest[size + 2 :]
    return found


def test_many_files_come_in_order_with_errors_among_them(agent: AgentRig, home: Path) -> None:
    (home / "a").write_bytes(b"A" * 100_000)
    (home / "empty").touch()
    (home / 'q"uo\\te').write_bytes(b"Q")
    paths = ["a", "none", "empty", 'q"uo\\te', ".", str(home / "a"), "nul\0"]
    answer = agent.request("POST", "/files/bulk-download", {"paths": paths})
    assert answer.status == 200
    parts = parts_of(answer)
    assert [name.decode() for _, name, _, _ in parts][:6] == paths[:6]
    kinds = [kind for kind, *_ in parts]
    assert kinds == ["file", "error", "file", "file", "error", "file", "error"]
    assert [parts[index][3] for index in (0, 2, 3, 5)] == [
        b"A" * 100_000,
        b"",
        b"Q",
        b"A" * 100_000,
    ]
    missing = json.loads(parts[1][3])
    assert missing["code"] == "FILE_NOT_FOUND"
    assert missing["message"].startswith("file not found: none")
    assert parts[1][2]["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("source", "version", "decodes_twice"),
    [
        ("python-sdk", "0.149.0", False),
        ("python-sdk", "0.155.0", True),
        ("sdk-python-async", "0.190.0", True),
        ("sdk-typescript", "0.190.0", False),
        ("sdk-python", "0.226.1", False),
    ],
)
def test_an_sdk_reads_the_name_that_it_asked_for(
    agent: AgentRig, home: Path, source: str, version: str, decodes_twice: bool
) -> None:
    (home / "ü €.txt").touch()
    headers = {"X-Daytona-Source": source, "X-Daytona-SDK-Version": version}
    wanted = {"paths": ["ü €.txt"]}
    answer = agent.request("POST", "/files/bulk-download", wanted, headers=headers)
    found = re.search(rb'filename="([^"]*)"', answer.body)
    assert found
    read = found[1].decode()
    assert (read.encode("latin-1").decode() if decodes_twice else read) == "ü €.txt"


def test_no_files_are_an_empty_form(agent: AgentRig) -> None:
    answer = agent.request("POST", "/files/bulk-download", {"paths": []})
    assert parts_of(answer) == []


byte_names = st.binary(min_size=1, max_size=255).filter(
    lambda raw: b"\0" not in raw and b"/" not in raw and raw not in {b".", b".."}
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(raw=byte_names)
def test_every_name_makes_the_round_trip(rig: AgentRig, home: Path, raw: bytes) -> None:
    home = home.parent / "names"
    subprocess.run(["rm", "-rf", home], check=True)
    home.mkdir()
    base = bytes(home) + b"/"
    escaped = quote_from_bytes(base + raw)
    assert upload(rig, (base + raw, b"content")).status == 200
    (entry,) = rig.request("GET", "/files", path=str(home)).json()
    text = entry["name"]
    assert text.encode("utf-8", "surrogateescape") == raw
    assert rig.request("GET", f"/files/info?path={escaped}").json()["name"] == text
    assert rig.request("GET", f"/files/download?path={escaped}").body == b"content"
    assert rig.request("GET", "/files/search", path=str(home), pattern="*").json() == {
        "files": [entry["path"]]
    }
    (match,) = rig.request("GET", "/files/find", path=str(home), pattern="tent").json()
    assert match["file"] == entry["path"]
    answer = rig.request("POST", "/files/bulk-download", {"paths": [entry["path"]]})
    ((kind, name, _, body),) = parts_of(answer)
    assert (kind, name, body) == ("file", base + raw, b"content")
    target = quote_from_bytes(base + b"moved")
    assert rig.request("POST", f"/files/move?source={escaped}&destination={target}").status == 200
    assert rig.request("POST", f"/files/move?source={target}&destination={escaped}").status == 200
    assert rig.request("DELETE", f"/files?path={escaped}").status == 204
    assert names(home) == []


@pytest.mark.parametrize("name", ['a"; filename="b', "a\r\nSet-Cookie: b", "‮gpj.exe", "x" * 255])
def test_a_name_cannot_spoil_the_headers(agent: AgentRig, home: Path, name: str) -> None:
    (home / name).write_bytes(b"x")
    answer = agent.request("GET", "/files/download", path=name)
    header = answer.headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename=\"[\w.~-]*\"; filename\*=UTF-8''[\w.~%-]*", header)
    assert header.endswith("UTF-8''" + quote(name, safe=""))
    assert "set-cookie" not in answer.headers


# Searching and replacing.


def test_searching_by_name(agent: AgentRig, home: Path) -> None:
    (home / "a" / "b").mkdir(parents=True)
    for path in ("x.txt", "a/y.txt", "a/b/z.TXT", "a/b.txt"):
        (home / path).touch()
    answer = agent.request("GET", "/files/search", path=".", pattern="*.txt")
    assert answer.json() == {"files": [str(home / p) for p in ("a/b.txt", "a/y.txt", "x.txt")]}
    assert agent.request("GET", "/files/search", path="x", pattern="*").status == 404
    assert agent.request("GET", "/files/search", path=".").status == 400


def test_finding_text(agent: AgentRig, home: Path) -> None:
    (home / "d").mkdir()
    (home / "d" / "f").write_bytes(b"one\ntwo needle\n\xffneedle needle\r\nthree")
    (home / "binary").write_bytes(b"\0needle")
    (home / "link").symlink_to("d")
    found = agent.request("GET", "/files/find", path=".", pattern="needle").json()
    assert found == [
        {"file": str(home / "d" / "f"), "line": 2, "content": "two needle"},
        {"file": str(home / "d" / "f"), "line": 3, "content": "�needle needle"},
    ]
    one = agent.request("GET", "/files/find", path="d/f", pattern="three").json()
    assert [match["line"] for match in one] == [4]
    assert agent.request("GET", "/files/find", path="x", pattern="y").status == 404


def test_very_many_matches_come_as_one_array(agent: AgentRig, home: Path) -> None:
    (home / "f").write_bytes(b"needle\n" * 20_000)
    found = agent.request("GET", "/files/find", path=".", pattern="needle").json()
    assert [match["line"] for match in found] == list(range(1, 20_001))


def test_replacing_is_literal_and_reports_each_file(agent: AgentRig, home: Path) -> None:
    (home / "f").write_bytes(b"a.c abc a.c")
    (home / "f").chmod(0o640)
    body = {"files": ["f", "none"], "pattern": "a.c", "newValue": "\\1"}
    first, second = agent.request("POST", "/files/replace", body).json()
    assert first == {"file": "f", "success": True}
    assert (second["file"], second["success"]) == ("none", False)
    assert "not found" in second["error"]
    assert (home / "f").read_bytes() == b"\\1 abc \\1"
    assert stat.S_IMODE((home / "f").stat().st_mode) == 0o640
    assert names(home) == ["f"]
    body = {"files": ["f"], "pattern": "", "newValue": "x"}
    assert agent.request("POST", "/files/replace", body).status == 400


# Size, time and memory.


def discard(connection: socket.socket, size: int) -> int:
    buffer = bytearray(MIB)
    got = 0
    while got < size and (count := connection.recv_into(buffer)):
        got += count
    return got


@contextmanager
def sending(agent: AgentRig, head: str) -> Iterator[socket.socket]:
    with agent.connect() as connection:
        lines = f"{head}\r\nHost: x\r\nX-Yurt-Secret: {SECRET}\r\n\r\n"
        connection.sendall(lines.encode())
        yield connection


def test_a_quarter_gibibyte_goes_through_in_little_memory(home: Path) -> None:
    directory = home.parent / "big"
    directory.mkdir()
    size = 256 * MIB
    with running_agent(workdir=str(directory)) as agent:
        agent.request("POST", "/files/upload-v2", b"x", path="warm")
        upload(agent, ("warm", b"x"))
        agent.request("POST", "/files/bulk-download", {"paths": ["warm"]})
        before = agent.memory_kib()
        head = f"POST /files/upload-v2?path=raw HTTP/1.1\r\nContent-Length: {size}"
        with sending(agent, head) as connection:
            for _ in range(256):
                connection.sendall(bytes(MIB))
            assert b" 200 " in connection.recv(4096)
        body, headers = form(("files[0].path", b"form"), ("files[0].file", b"@"))
        first, last = body.split(b"@")
        pieces = (piece for piece in [first, *[bytes(MIB)] * 256, last])
        answer = agent.request("POST", "/files/bulk-upload", pieces, headers=headers)
        assert answer.json()["files"][0]["bytes"] == size
        with sending(agent, "GET /files/download?path=form HTTP/1.1") as connection:
            assert discard(connection, size) >= size
        assert len(agent.request("POST", "/files/bulk-download", {"paths": ["raw"]}).body) > size
        body_json = {"files": ["raw"], "pattern": "\0\0", "newValue": "x\0"}
        assert agent.request("POST", "/files/replace", body_json).json()[0]["success"] is True
        assert agent.memory_kib() - before < 24 * 1024
    subprocess.run(["rm", "-rf", directory], check=True)


def test_a_sparse_file_of_ten_gibibytes_is_served(agent: AgentRig, home: Path) -> None:
    with (home / "sparse").open("wb") as file:
        file.truncate(10 << 30)
        file.seek(5 << 30)
        file.write(b"middle")
    headers = {"Range": f"bytes={5 << 30}-{(5 << 30) + 5}"}
    answer = agent.request("GET", "/files/download", headers=headers, path="sparse")
    assert (answer.status, answer.body) == (206, b"middle")
    with sending(agent, "GET /files/download?path=sparse HTTP/1.1") as connection:
        assert discard(connection, 64 * MIB) >= 64 * MIB
    assert agent.request("GET", "/version").status == 200


def test_others_are_answered_while_a_large_upload_runs(agent: AgentRig, home: Path) -> None:
    size = 512 * MIB

    def send() -> None:
        head = f"POST /files/upload-v2?path=big HTTP/1.1\r\nContent-Length: {size}"
        with sending(agent, head) as connection:
            for _ in range(size // MIB):
                connection.sendall(bytes(MIB))
            connection.recv(4096)

    sender = threading.Thread(target=send)
    sender.start()
    waits = []
    while sender.is_alive():
        started = time.monotonic()
        assert agent.request("GET", "/work-dir").status == 200
        waits.append(time.monotonic() - started)
    sender.join()
    (home / "big").unlink()
    assert len(waits) > 5
    # Half of them: the machine of the tests is shared, and a single wait proves nothing.
    assert sorted(waits)[len(waits) // 2] < 0.1


# Another user.


@pytest.fixture
def public(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the agent's code; every user may come there and to ``tmp_path``."""
    code = tmp_path_factory.mktemp("code")
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent, code):
        directory.chmod(0o755)
    return code


@is_root
def test_the_kernel_refuses_what_the_user_may_not(tmp_path: Path, public: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret").chmod(0o600)
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, 4321, 4322)
    with running_agent(public=public, user="4321:4322", workdir=str(own)) as agent:
        refused: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/files/download", {"path": str(tmp_path / "secret")}),
            ("GET", "/files", {"path": str(tmp_path / "private")}),
            ("POST", "/files/folder", {"path": str(tmp_path / "x")}),
            ("POST", "/files/permissions", {"path": str(tmp_path / "secret"), "mode": "644"}),
            ("DELETE", "/files", {"path": str(tmp_path / "secret")}),
            ("POST", "/files/upload-v2", {"path": str(tmp_path / "secret")}),
            ("POST", "/files/move", {"source": str(tmp_path / "secret"), "destination": "s"}),
        ]
        for method, route, query in refused:
            answer = agent.request(method, route, b"x" if "upload" in route else None, **query)
            assert is_error(answer, 403, "FILE_ACCESS_DENIED"), route
            assert "permission denied" in answer.json()["message"]
        assert upload(agent, ("f", b"x")).status == 200
        status = (own / "f").stat()
        assert (status.st_uid, status.st_gid) == (4321, 4322)
        for path in (f"/proc/{agent.process.pid}/environ", f"/proc/{agent.process.pid}/mem"):
            command = ["setpriv", "--reuid=4321", "--regid=4322", "--clear-groups", "cat", path]
            done = subprocess.run(command, capture_output=True, check=False)
            assert b"Permission denied" in done.stderr
    assert (tmp_path / "secret").read_bytes() == b"secret"


@is_root
def test_a_file_in_a_closed_directory_can_still_be_written(tmp_path: Path, public: Path) -> None:
    (tmp_path / "f").write_bytes(b"old and longer")
    os.chown(tmp_path / "f", 4321, 4322)
    with running_agent(public=public, user="4321:4322", workdir=str(tmp_path)) as agent:
        assert upload(agent, ("f", b"new")).status == 200
    assert (tmp_path / "f").read_bytes() == b"new"
    assert names(tmp_path) == ["f"]
