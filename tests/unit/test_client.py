"""The client and its commands against a server that is a function."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from typer.testing import CliRunner

from yurt import ApiError, Client, UnreachableError, YurtClientError, cli, snapshots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.unit

URL = "http://yurt.test:9878/api"
BOX = {
    "id": "boxid",
    "name": "box",
    "state": "started",
    "snapshot": "default",
    "createdAt": "2031-02-03T04:05:06.000Z",
    "toolboxProxyUrl": "http://yurt.test:9878/toolbox",
}

Answers = dict[tuple[str, str], httpx.Response]


class Server:
    """Answers what it was told to, and fails the test on anything else."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answers[request.method, request.url.raw_path.decode()]

    def client(self) -> Client:
        return Client(URL, "key", transport=httpx.MockTransport(self))


def test_every_call_carries_the_key() -> None:
    server = Server({("GET", "/api/sandbox/box"): httpx.Response(200, json=BOX)})
    assert server.client().get("box").id == "boxid"
    assert server.requests[0].headers["authorization"] == "Bearer key"


def test_a_name_is_never_taken_for_a_path() -> None:
    server = Server({("GET", "/api/sandbox/..%2Fkeys%3F"): httpx.Response(200, json=BOX)})
    server.client().get("../keys?")


def test_a_list_goes_on_to_its_last_page() -> None:
    other = BOX | {"id": "other"}
    server = Server(
        {
            ("GET", "/api/sandbox"): httpx.Response(200, json={"items": [BOX], "nextCursor": "c"}),
            ("GET", "/api/sandbox?cursor=c"): httpx.Response(
                200, json={"items": [other], "nextCursor": None}
            ),
        }
    )
    assert [sandbox.id for sandbox in server.client().list()] == ["boxid", "other"]


def test_a_command_goes_to_the_toolbox_with_only_what_was_said() -> None:
    path = "/toolbox/boxid/process/execute"
    server = Server(
        {
            ("GET", "/api/sandbox/box"): httpx.Response(200, json=BOX),
            ("POST", path): httpx.Response(200, json={"exitCode": 3, "result": "no"}),
        }
    )
    client = server.client()
    finished = client.execute(client.get("box"), "exit 3")
    assert (finished.exit_code, finished.output) == (3, "no")
    assert json.loads(server.requests[1].content) == {"command": "exit 3"}


def test_a_terminal_is_asked_for_on_the_websocket_of_the_toolbox() -> None:
    server = Server({("GET", "/api/sandbox/box"): httpx.Response(200, json=BOX)})
    client = server.client()
    url, base = client.terminal_url(client.get("box"), 100, 30)
    assert url.startswith("ws://yurt.test:9878/toolbox/boxid/process/pty/create-connect?id=cli-")
    assert url.endswith("&cols=100&rows=30")
    assert base.startswith("http://yurt.test:9878/toolbox/boxid/process/pty/cli-")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            httpx.Response(404, json={"message": "no such thing", "code": "NOT_FOUND"}),
            "no such thing",
            id="envelope",
        ),
        pytest.param(httpx.Response(404, text="404 page"), "404 page", id="text"),
        pytest.param(httpx.Response(404), "Not Found", id="nothing"),
        pytest.param(httpx.Response(404, json=["odd"]), '["odd"]', id="odd JSON"),
    ],
)
def test_a_refusal_says_what_the_server_said(answer: httpx.Response, message: str) -> None:
    server = Server({("GET", "/api/sandbox/box"): answer})
    with pytest.raises(ApiError) as raised:
        server.client().get("box")
    assert (raised.value.status, str(raised.value)) == (404, message)


def test_an_answer_that_is_not_json_is_not_from_a_yurt_server() -> None:
    server = Server({("GET", "/api/sandbox/box"): httpx.Response(200, text="<html>")})
    with pytest.raises(YurtClientError, match="is this a Yurt server"):
        server.client().get("box")


def test_no_server_is_told_apart_from_a_refusal() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        message = "Connection refused"
        raise httpx.ConnectError(message, request=request)

    client = Client(URL, "key", transport=httpx.MockTransport(refuse))
    with pytest.raises(UnreachableError, match=r"GET .*/api/sandbox/x: Connection refused"):
        client.get("x")


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], Server]:
    def serve(answers: Answers) -> Server:
        server = Server(answers)
        monkeypatch.setattr(Client, "from_environment", server.client)
        return server

    return serve


def test_ls_prints_json_when_asked(command_line: Callable[[Answers], Server]) -> None:
    command_line({("GET", "/api/sandbox"): httpx.Response(200, json={"items": [BOX]})})
    done = CliRunner().invoke(cli.app, ["ls", "--json"])
    assert json.loads(done.stdout) == [BOX]


def test_ls_prints_ids_whole_without_a_terminal(
    command_line: Callable[[Answers], Server],
) -> None:
    long = BOX | {"id": "i" * 26, "name": "n" * 90}
    command_line({("GET", "/api/sandbox"): httpx.Response(200, json={"items": [long]})})
    printed = CliRunner().invoke(cli.app, ["ls"]).stdout
    assert "i" * 26 in printed
    assert "n" * 90 in printed
    assert "2031-02-03 04:05:06" in printed


def test_create_sends_only_what_was_said(command_line: Callable[[Answers], Server]) -> None:
    server = command_line({("POST", "/api/sandbox"): httpx.Response(200, json=BOX)})
    done = CliRunner().invoke(cli.app, ["create", "--name", "box", "--env", "A=b=c"])
    assert done.stdout == "boxid\n"
    assert json.loads(server.requests[0].content) == {
        "name": "box",
        "env": {"A": "b=c"},
    }


def test_exec_hands_words_on_and_ends_as_the_command_did(
    command_line: Callable[[Answers], Server],
) -> None:
    path = "/toolbox/boxid/process/execute"
    server = command_line(
        {
            ("GET", "/api/sandbox/box"): httpx.Response(200, json=BOX),
            ("POST", path): httpx.Response(200, json={"exitCode": 3, "result": "out"}),
        }
    )
    done = CliRunner().invoke(cli.app, ["exec", "box", "ls", "-la", "a b"])
    assert done.exit_code == 3
    assert done.stdout == "out\n"
    assert json.loads(server.requests[1].content) == {"command": "ls -la 'a b'"}


def test_exec_leaves_a_whole_line_to_the_shell(command_line: Callable[[Answers], Server]) -> None:
    path = "/toolbox/boxid/process/execute"
    server = command_line(
        {
            ("GET", "/api/sandbox/box"): httpx.Response(200, json=BOX),
            ("POST", path): httpx.Response(200, json={"exitCode": 0, "result": ""}),
        }
    )
    CliRunner().invoke(cli.app, ["exec", "--cwd", "/tmp", "box", "ls | wc"])
    assert json.loads(server.requests[1].content) == {"command": "ls | wc", "cwd": "/tmp"}


def test_volumes_are_made_listed_and_deleted(command_line: Callable[[Answers], Server]) -> None:
    volume = {"id": "1-2", "name": "v", "state": "ready", "errorReason": None}
    missing = httpx.Response(404, json={"message": "no"})
    server = command_line(
        {
            ("POST", "/api/volumes"): httpx.Response(200, json=volume),
            ("GET", "/api/volumes"): httpx.Response(200, json=[volume]),
            ("GET", "/api/volumes/by-name/v"): httpx.Response(200, json=volume),
            ("GET", "/api/volumes/by-name/3-4"): missing,
            ("DELETE", "/api/volumes/1-2"): httpx.Response(200),
            ("DELETE", "/api/volumes/3-4"): httpx.Response(200),
        }
    )
    run = CliRunner().invoke
    assert run(cli.app, ["volume", "create", "v"]).stdout == "1-2\n"
    assert json.loads(server.requests[0].content) == {"name": "v"}
    assert run(cli.app, ["volume", "list"]).stdout == "1-2  ready  v\n"
    assert json.loads(run(cli.app, ["volume", "list", "--json"]).stdout) == [volume]
    assert run(cli.app, ["volume", "delete", "v", "3-4"]).exit_code == 0
    deleted = [request.url.path for request in server.requests if request.method == "DELETE"]
    assert deleted == ["/api/volumes/1-2", "/api/volumes/3-4"]


def test_snapshots_are_made_listed_and_deleted(
    command_line: Callable[[Answers], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "POLL_SECONDS", 0)
    made = {"id": "1-2", "name": "a/b:1", "state": "active", "errorReason": None}
    failed = {**made, "id": "3-4", "name": "c", "state": "build_failed", "errorReason": "why\nnot"}
    said = httpx.Response(200, text="FROM a\n")
    listed = {"items": [made, failed], "total": 2, "page": 1, "totalPages": 1}
    server = command_line(
        {
            ("POST", "/api/snapshots"): httpx.Response(200, json=made),
            ("GET", "/api/snapshots?page=1&limit=100"): httpx.Response(200, json=listed),
            ("GET", "/api/snapshots/a%2Fb%3A1"): httpx.Response(200, json=made),
            ("GET", "/api/snapshots/c"): httpx.Response(200, json=failed),
            ("GET", "/api/snapshots/c/build-logs?follow=true"): said,
            ("POST", "/api/sandbox/box/snapshot"): httpx.Response(200, json=BOX),
            ("DELETE", "/api/snapshots/c"): httpx.Response(200),
        }
    )
    run = CliRunner().invoke
    assert run(cli.app, ["snapshot", "create", "a/b:1", "--image", "i:1"]).stdout == "1-2\n"
    assert json.loads(server.requests[0].content) == {"name": "a/b:1", "imageName": "i:1"}
    file = tmp_path / "Dockerfile"
    file.write_text("FROM a\n")
    broken = run(cli.app, ["snapshot", "create", "c", "--dockerfile", str(file), "--cpu", "2"])
    assert "FROM a\n" in broken.output
    assert "why\nnot" in str(broken.exception)
    sent = [r for r in server.requests if r.method == "POST"][-1]
    build = {"dockerfileContent": "FROM a\n"}
    assert json.loads(sent.content) == {"name": "c", "buildInfo": build, "cpu": 2}
    assert run(cli.app, ["snapshot", "create", "a/b:1", "--sandbox", "box"]).stdout == "1-2\n"
    assert run(cli.app, ["snapshot", "create", "x"]).exit_code == 2
    assert run(cli.app, ["snapshot", "list"]).stdout == (
        "1-2  active  a/b:1\n3-4  build_failed  c  why\n"
    )
    assert run(cli.app, ["snapshot", "delete", "c"]).exit_code == 0


def test_a_sandbox_is_created_with_volumes(command_line: Callable[[Answers], Server]) -> None:
    server = command_line({("POST", "/api/sandbox"): httpx.Response(200, json=BOX)})
    run = CliRunner().invoke
    words = ["create", "--volume", "v:/data", "--volume", "w/a/b:/part"]
    assert run(cli.app, words).exit_code == 0
    assert json.loads(server.requests[0].content) == {
        "volumes": [
            {"volumeId": "v", "mountPath": "/data"},
            {"volumeId": "w", "mountPath": "/part", "subpath": "a/b"},
        ]
    }
    refused = run(cli.app, ["create", "--volume", "/data"])
    assert (refused.exit_code, len(server.requests)) == (2, 1)


def test_without_address_and_key_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAYTONA_API_URL", "DAYTONA_SERVER_URL", "DAYTONA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(YurtClientError, match="yurt env"):
        Client.from_environment()


def test_organizations_are_made_listed_and_removed(
    command_line: Callable[[Answers], Server],
) -> None:
    made = {"id": "an-id", "name": "acme", "apiKey": {"name": "first", "value": "a-key"}}
    server = command_line(
        {
            ("POST", "/api/organizations"): httpx.Response(201, json=made),
            ("GET", "/api/organizations"): httpx.Response(200, json=[made]),
            ("DELETE", "/api/organizations/an-id"): httpx.Response(204),
        }
    )
    run = CliRunner().invoke
    assert run(cli.app, ["org", "create", "acme"]).stdout == "an-id\na-key\n"
    assert json.loads(server.requests[0].content) == {"name": "acme"}
    assert run(cli.app, ["org", "ls"]).stdout == "an-id  acme\n"
    assert run(cli.app, ["org", "rm", "an-id"]).exit_code == 0
    assert len(server.requests) == 3
