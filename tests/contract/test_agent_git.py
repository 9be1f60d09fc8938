"""Git by a real agent with a real git: one repository, and others by file and by HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.agent_calls import children
from tests.support.agent_rig import SECRET, AgentRig, Answer, running_agent
from tests.support.git_server import (
    PASSWORD,
    USER,
    GitServer,
    authorization,
    git,
    git_server,
    made_repository,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.contract
PERSON = {"author": "Ü. Person", "email": "person@example.org"}


class Bench:
    """An agent whose user has a home, and a directory for repositories."""

    def __init__(self, agent: AgentRig, home: Path) -> None:
        self.agent, self.home = agent, home

    def post(self, call: str, wanted: int = 200, /, **body: Any) -> Answer:
        answer = self.agent.request("POST", f"/git/{call}", body)
        assert answer.status == wanted, answer.body
        return answer

    def get(self, call: str, **query: Any) -> Any:
        answer = self.agent.request("GET", f"/git/{call}", **query)
        assert answer.status == 200, answer.body
        return answer.json()

    def refused(self, status: int, code: str, call: str, /, **body: Any) -> str:
        said = self.post(call, status, **body).json()
        assert said["code"] == code, said
        assert said["source"] == "DAYTONA_DAEMON"
        return str(said["message"])

    def repository(self, name: str = "repo") -> Path:
        """Make a repository with one commit through the agent."""
        self.post("init", 201, path=name, initial_branch="main")
        (self.home / name / "a").write_text("1\n")
        self.post("add", path=name, files=["."])
        self.post("commit", path=name, message="begin", **PERSON)
        return self.home / name


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    home = tmp_path / "home"
    home.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}
    env["LANG"] = "de_DE.UTF-8"
    with running_agent(env=env, workdir=str(home)) as agent:
        yield Bench(agent, home)


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "served" / "project.git"
    return path, made_repository(path)


@pytest.fixture
def server(upstream: tuple[Path, str]) -> Iterator[GitServer]:
    with git_server(upstream[0].parent) as running:
        yield running


def test_a_commit_has_its_author_its_message_to_the_letter_and_its_place_in_the_history(
    bench: Bench,
) -> None:
    repo = bench.repository()
    (repo / "a").write_text("2\n")
    bench.post("add", path="repo", files=["a"])
    message = "# no comment\n\n  zwei ü 🦌\n"
    made = bench.post("commit", path=str(repo), message=message, **PERSON).json()["hash"]
    newest, oldest = bench.get("history", path="repo")
    assert newest.pop("timestamp").startswith("20")
    assert newest == {"hash": made, "message": message, **PERSON}
    assert oldest["message"] == "begin"
    assert git(repo, "log", "-1", "--format=%cn <%ce>") == "Ü. Person <person@example.org>"


def test_a_repository_without_commits_has_a_branch_and_no_history(bench: Bench) -> None:
    bench.post("init", 201, path="deep/new", initial_branch="trunk")
    assert bench.get("history", path="deep/new") == []
    assert bench.get("branches", path="deep/new") == {"branches": [], "current": "trunk"}
    status = bench.get("status", path="deep/new")
    assert (status["currentBranch"], status["detached"]) == ("trunk", False)
    bench.post("init", 201, path="bare", bare=True)
    assert git(bench.home / "bare", "rev-parse", "--is-bare-repository") == "true"


def test_status_tells_each_file_by_the_words_of_the_wire(bench: Bench) -> None:
    repo = bench.repository()
    for name in ("moved with blank", "gone", "changed"):
        (repo / name).write_text(name * 20)
    bench.post("add", path="repo", files=["."])
    bench.post("commit", path="repo", message="more", **PERSON)
    (repo / "moved with blank").rename(repo / "new\nname")
    (repo / "gone").unlink()
    bench.post("add", path="repo", files=["."])
    (repo / "changed").write_text("else")
    (repo / "folder").mkdir()
    (repo / "folder" / "ü").touch()
    Path(os.fsdecode(os.fsencode(repo) + b"/\xff")).touch()
    (repo / "fresh").touch()
    bench.post("add", path="repo", files=["fresh"])
    files = {file.pop("name"): file for file in bench.get("status", path="repo")["fileStatus"]}
    untracked = {"staging": "Untracked", "worktree": "Untracked", "extra": ""}
    assert files == {
        "new\nname": {"staging": "Renamed", "worktree": "Unmodified", "extra": "moved with blank"},
        "gone": {"staging": "Deleted", "worktree": "Unmodified", "extra": ""},
        "changed": {"staging": "Unmodified", "worktree": "Modified", "extra": ""},
        "fresh": {"staging": "Added", "worktree": "Unmodified", "extra": ""},
        "folder/ü": untracked,
        "\udcff": untracked,
    }


def test_branches_are_made_checked_out_listed_and_deleted(bench: Bench) -> None:
    repo = bench.repository()
    bench.post("branches", 201, path="repo", name="feature/x")
    assert bench.get("branches", path="repo") == {
        "branches": ["feature/x", "main"],
        "current": "feature/x",
    }
    bench.refused(409, "GIT_BRANCH_EXISTS", "branches", path="repo", name="feature/x")
    bench.post("checkout", path="repo", branch="main")
    bench.refused(404, "GIT_BRANCH_NOT_FOUND", "checkout", path="repo", branch="nowhere")
    bench.refused(404, "GIT_BRANCH_NOT_FOUND", "checkout", path="repo", branch="a")  # a file
    body = {"path": "repo", "name": "feature/x"}
    assert bench.agent.request("DELETE", "/git/branches", body).status == 204
    again = bench.agent.request("DELETE", "/git/branches", body)
    assert (again.status, again.json()["code"]) == (404, "GIT_BRANCH_NOT_FOUND")
    held = bench.agent.request("DELETE", "/git/branches", {"path": "repo", "name": "main"})
    assert held.status == 409
    bench.post("checkout", path="repo", branch=git(repo, "rev-parse", "HEAD"))
    status = bench.get("status", path="repo")
    assert (status["currentBranch"], status["detached"]) == ("HEAD", True)
    assert bench.get("branches", path="repo")["current"] == ""


def test_a_change_in_the_way_of_a_checkout_is_kept(bench: Bench) -> None:
    repo = bench.repository()
    bench.post("branches", 201, path="repo", name="other")
    (repo / "a").write_text("other\n")
    bench.post("add", path="repo", files=["a"])
    bench.post("commit", path="repo", message="other", **PERSON)
    (repo / "a").write_text("mine\n")
    bench.refused(409, "GIT_DIRTY_WORKTREE", "checkout", path="repo", branch="main")
    assert (repo / "a").read_text() == "mine\n"


def test_an_empty_commit_must_be_wanted(bench: Bench) -> None:
    repo = bench.repository()
    said = bench.refused(400, "BAD_REQUEST", "commit", path="repo", message="none", **PERSON)
    assert "nothing to commit" in said
    bench.post("commit", path="repo", message="none", allow_empty=True, **PERSON)
    assert git(repo, "rev-list", "--count", "HEAD") == "2"


def test_reset_and_restore_take_back_what_they_are_told_to(bench: Bench) -> None:
    repo = bench.repository()
    (repo / "b").write_text("b\n")
    (repo / "a").write_text("2\n")
    bench.post("add", path="repo", files=["."])
    bench.post("reset", path="repo", files=["b"])
    assert git(repo, "diff", "--cached", "--name-only") == "a"
    bench.post("restore", path="repo", files=["a"], staged=True)
    assert git(repo, "diff", "--name-only") == "a"
    bench.post("restore", path="repo", files=["a"])
    assert (repo / "a").read_text() == "1\n"
    bench.post("add", path="repo", files=["b"])
    bench.post("commit", path="repo", message="b", **PERSON)
    bench.post("reset", path="repo", mode="hard", target="HEAD~1")
    assert not (repo / "b").exists()
    bench.post("restore", path="repo", files=["b"], source="ORIG_HEAD", staged=True, worktree=True)
    assert (repo / "b").read_text() == "b\n"
    bench.refused(400, "BAD_REQUEST", "reset", path="repo", mode="hard", files=["b"])
    bench.refused(400, "BAD_REQUEST", "reset", path="repo", mode="tender")


def test_paths_of_files_are_no_patterns(bench: Bench) -> None:
    repo = bench.repository()
    for name in ("*", ":(top)", "-f", "other"):
        (repo / name).touch()
    bench.post("add", path="repo", files=["*", ":(top)", "-f"])
    assert git(repo, "diff", "--cached", "--name-only").split() == ["*", "-f", ":(top)"]


def test_settings_are_kept_for_the_user_or_for_one_repository(bench: Bench) -> None:
    bench.repository()
    bench.post("config/user", name="Me", email="me@example.org")
    bench.post("config", key="user.name", value="-local\nname", scope="local", path="repo")
    assert bench.get("config", key="user.name") == {"value": "Me"}
    assert bench.get("config", key="user.name", path="repo") == {"value": "-local\nname"}
    assert bench.get("config", key="user.name", scope="global") == {"value": "Me"}
    assert bench.get("config", key="user.unset", scope="global") == {"value": None}
    assert "name = Me" in (bench.home / ".gitconfig").read_text()
    bench.refused(400, "BAD_REQUEST", "config", key="user.name", value="x", scope="local")
    bench.refused(400, "BAD_REQUEST", "config", key="--list", value="x")
    bench.refused(400, "BAD_REQUEST", "config", key="user.name", value="x", scope="worktree")


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("clone", {"url": "ext::sh -c touch% {mark}", "path": "x"}),
        ("clone", {"url": "--upload-pack=touch {mark}", "path": "x"}),
        ("clone", {"url": "ssh://-oProxyCommand=touch${{IFS}}{mark}/x", "path": "x"}),
        ("clone", {"url": "fd::17", "path": "x"}),
        ("clone", {"url": "ftp://example.org/x", "path": "x"}),
        ("clone", {"url": "../served/project.git", "path": "x", "branch": "--upload-pack=x"}),
        ("clone", {"url": "../served/project.git", "path": "x", "commit_id": "--orphan"}),
        ("clone", {"url": "../served/project.git", "path": "x", "depth": -1}),
        ("checkout", {"path": "repo", "branch": "--orphan=x"}),
        ("checkout", {"path": "repo", "branch": "-"}),
        ("branches", {"path": "repo", "name": "-d"}),
        ("branches", {"path": "repo", "name": "a..b"}),
        ("push", {"path": "repo", "remote": "--receive-pack=touch {mark}"}),
        ("push", {"path": "repo", "branch": "main:other"}),
        ("pull", {"path": "repo", "remote": "--upload-pack=touch {mark}"}),
        ("remotes", {"path": "repo", "name": "-x", "url": "/tmp"}),
        ("remotes", {"path": "repo", "name": "x", "url": "ext::touch {mark}"}),
        ("reset", {"path": "repo", "target": "--hard"}),
        ("restore", {"path": "repo", "files": ["a"], "source": "-x"}),
        ("add", {"path": "repo", "files": []}),
        ("add", {"path": "repo"}),
        ("init", {"path": ""}),
        ("init", {"path": "x\0y"}),
        ("commit", {"path": "repo", "message": " ", **PERSON}),
    ],
)
def test_what_git_would_take_for_something_else_is_refused(
    bench: Bench, upstream: object, tmp_path: Path, call: str, body: dict[str, Any]
) -> None:
    repo, mark = bench.repository(), tmp_path / "mark"
    git(repo, "remote", "add", "origin", "../../served/project.git")
    before = git(repo, "for-each-ref")
    filled = json.loads(json.dumps(body).replace("{mark}", str(mark)).replace("{{IFS}}", "{IFS}"))
    assert bench.post(call, 400, **filled).json()["message"]
    assert not mark.exists()
    assert not (bench.home / "x").exists()
    assert git(repo, "for-each-ref") == before


def test_a_remote_in_the_configuration_runs_no_program_either(bench: Bench, tmp_path: Path) -> None:
    repo, mark = bench.repository(), tmp_path / "mark"
    git(repo, "remote", "add", "origin", f"ext::touch {mark}")
    git(repo, "config", "protocol.ext.allow", "always")
    bench.post("pull", 400, path="repo")
    bench.post("push", 400, path="repo")
    assert not mark.exists()


def test_what_is_no_repository_is_not_found(bench: Bench, tmp_path: Path) -> None:
    (bench.home / "plain").mkdir()
    for path in ("plain", "nowhere"):
        answer = bench.agent.request("GET", "/git/status", path=path)
        assert (answer.status, answer.json()["code"]) == (404, "GIT_REPO_NOT_FOUND")
        bench.refused(404, "GIT_REPO_NOT_FOUND", "add", path=path, files=["."])
        bench.refused(404, "GIT_REPO_NOT_FOUND", "push", path=path)
    body = {"url": str(tmp_path / "nowhere"), "path": "x"}
    bench.refused(404, "GIT_REPO_NOT_FOUND", "clone", **body)
    bench.repository()
    bench.refused(404, "GIT_REPO_NOT_FOUND", "push", path="repo")  # no remote
    assert bench.agent.request("GET", "/git/status").status == 400


def test_without_git_the_remedy_is_told(tmp_path: Path) -> None:
    with running_agent(env={"PATH": str(tmp_path)}) as agent:
        answer = agent.request("POST", "/git/init", {"path": str(tmp_path / "x")})
    assert answer.status == 400
    assert "install" in answer.json()["message"]


def test_a_clone_follows_its_remote_and_its_pushes_arrive(
    bench: Bench, upstream: tuple[Path, str]
) -> None:
    origin, _ = upstream
    bench.post("clone", url=str(origin), path="ours")
    bench.post("clone", url=f"file://{origin}", path="theirs")
    status = bench.get("status", path="ours")
    assert {name: status[name] for name in ("upstream", "branchPublished", "ahead")} == {
        "upstream": "origin/main",
        "branchPublished": True,
        "ahead": 0,
    }
    (bench.home / "ours" / "new").touch()
    bench.post("add", path="ours", files=["new"])
    bench.post("commit", path="ours", message="new", **PERSON)
    assert bench.get("status", path="ours")["ahead"] == 1
    bench.post("push", path="ours")
    bench.post("pull", path="theirs")
    assert (bench.home / "theirs" / "new").exists()
    # A branch of one's own: unknown there, then pushed, then followed.
    bench.post("branches", 201, path="ours", name="mine")
    assert bench.get("status", path="ours")["branchPublished"] is False
    bench.post("push", path="ours")
    assert bench.get("status", path="ours")["branchPublished"] is True
    bench.post("push", path="ours", set_upstream=True)
    assert bench.get("status", path="ours")["upstream"] == "origin/mine"
    bench.post("pull", path="theirs")
    bench.post("checkout", path="theirs", branch="topic")  # known of the remote only
    bench.post("pull", path="theirs", remote="origin", branch="main")
    assert git(bench.home / "theirs", "rev-parse", "topic") == git(origin, "rev-parse", "main")


def test_a_push_behind_the_remote_and_one_that_it_forbids_are_told_apart(
    bench: Bench, upstream: tuple[Path, str]
) -> None:
    origin, _ = upstream
    for name in ("one", "two"):
        bench.post("clone", url=str(origin), path=name)
        (bench.home / name / "read.me").write_text(name)
        bench.post("add", path=name, files=["."])
        bench.post("commit", path=name, message=name, **PERSON)
    bench.post("push", path="one")
    bench.refused(409, "GIT_PUSH_REJECTED", "push", path="two")
    bench.post("config/user", name="M", email="m@example.org")
    bench.refused(409, "GIT_MERGE_CONFLICT", "pull", path="two")
    (file,) = bench.get("status", path="two")["fileStatus"]
    assert file["staging"] == file["worktree"] == "Updated but unmerged"
    hook = origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'not on Fridays' >&2\nexit 1\n")
    hook.chmod(0o755)
    bench.post("branches", 201, path="one", name="late")
    said = bench.refused(422, "GIT_REMOTE_REJECTED", "push", path="one")
    assert "not on Fridays" in said


def test_a_pull_over_an_uncommitted_change_is_refused_and_keeps_it(
    bench: Bench, upstream: tuple[Path, str]
) -> None:
    bench.post("clone", url=str(upstream[0]), path="repo")
    git(bench.home / "repo", "reset", "-q", "--hard", "HEAD~1")
    (bench.home / "repo" / "read.me").write_text("mine")
    bench.refused(409, "GIT_DIRTY_WORKTREE", "pull", path="repo")
    assert (bench.home / "repo" / "read.me").read_text() == "mine"


def test_a_clone_of_a_branch_or_of_a_commit_has_just_that(
    bench: Bench, upstream: tuple[Path, str]
) -> None:
    origin, first = upstream
    url = f"file://{origin}"
    bench.post("clone", url=url, path="branch", branch="topic")
    assert bench.get("status", path="branch")["currentBranch"] == "topic"
    for path, more in (("commit", {}), ("shallow", {"depth": 1})):
        bench.post("clone", url=url, path=path, commit_id=first, **more)
        assert git(bench.home / path, "rev-parse", "HEAD") == first
        assert (bench.home / path / "read.me").read_text() == "one\n"
        assert bench.get("status", path=path)["detached"] is True
    bench.post("clone", url=url, path="newest", depth=1)
    assert len(bench.get("history", path="newest")) == 1


def test_a_clone_that_fails_leaves_nothing_behind(bench: Bench, upstream: tuple[Path, str]) -> None:
    url = str(upstream[0])
    bench.refused(404, "GIT_BRANCH_NOT_FOUND", "clone", url=url, path="x", branch="nowhere")
    bench.refused(404, "NOT_FOUND", "clone", url=url, path="x", commit_id="0" * 40)
    assert not (bench.home / "x").exists()
    (bench.home / "empty").mkdir()
    bench.refused(404, "NOT_FOUND", "clone", url=url, path="empty", commit_id="0" * 40)
    assert list((bench.home / "empty").iterdir()) == []
    (bench.home / "full").mkdir()
    (bench.home / "full" / "file").touch()
    bench.refused(409, "CONFLICT", "clone", url=url, path="full")
    assert (bench.home / "full" / "file").exists()


def test_remotes_are_added_replaced_and_listed(bench: Bench, upstream: tuple[Path, str]) -> None:
    repo, url = bench.repository(), str(upstream[0])
    assert bench.get("remotes", path="repo") == {"remotes": []}
    bench.post("remotes", 201, path="repo", name="team/a", url=url, fetch=True)
    assert git(repo, "rev-parse", "team/a/topic")
    bench.refused(409, "CONFLICT", "remotes", path="repo", name="team/a", url="/elsewhere")
    failed = {"path": "repo", "name": "team/a", "url": "/elsewhere", "fetch": True}
    bench.refused(404, "GIT_REPO_NOT_FOUND", "remotes", **failed, overwrite=True)
    bench.refused(404, "GIT_REPO_NOT_FOUND", "remotes", **{**failed, "name": "new"})
    assert bench.get("remotes", path="repo") == {"remotes": [{"name": "team/a", "url": url}]}
    bench.post("remotes", 201, path="repo", name="team/a", url="../x", overwrite=True)
    assert bench.get("remotes", path="repo")["remotes"][0]["url"] == "../x"


def test_credentials_open_a_locked_server_and_are_written_nowhere(
    bench: Bench, server: GitServer, upstream: tuple[Path, str]
) -> None:
    url = f"{server.url}/project.git"
    login = {"username": USER, "password": PASSWORD}
    # The user's own store must not get to know what is given for one call.
    bench.post("config", key="credential.helper", value="store")
    server.stall.clear()
    answers: list[Answer] = []
    cloning = threading.Thread(
        target=lambda: answers.append(bench.post("clone", url=url, path="r", **login))
    )
    cloning.start()
    assert server.asked.wait(20)
    shown = visible(bench.agent)
    server.stall.set()
    cloning.join()
    assert answers
    assert b"clone" in shown
    assert PASSWORD.encode() not in shown
    repo = bench.home / "r"
    (repo / "new").touch()
    bench.post("add", path="r", files=["new"])
    bench.post("commit", path="r", message="new", **PERSON)
    bench.refused(401, "GIT_AUTH_FAILED", "push", path="r")
    wrong = {"username": USER, "password": "wrong"}
    bench.refused(401, "GIT_AUTH_FAILED", "push", path="r", **wrong)
    bench.post("push", path="r", **login)
    assert git(upstream[0], "rev-parse", "main") == git(repo, "rev-parse", "HEAD")
    bench.post("pull", path="r", **login)
    found = subprocess.run(
        ["grep", "-rlaF", PASSWORD, str(bench.home)], capture_output=True, check=False
    )
    assert found.stdout == b""
    assert bench.agent.stop() == 0
    assert PASSWORD not in bench.agent.log()


def visible(agent: AgentRig) -> bytes:
    """Return arguments and variables of all that the agent has started."""
    pids, texts = children(agent), b""
    while pids:
        pid = pids.pop()
        for name in ("cmdline", "environ"):
            texts += Path(f"/proc/{pid}/{name}").read_bytes()
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return texts


def test_a_password_in_a_url_is_used_and_dropped(bench: Bench, server: GitServer) -> None:
    host = server.url.removeprefix("http://")
    quoted = PASSWORD.replace("/", "%2F").replace("@", "%40")
    url = f"http://{USER}:{quoted}@{host}/project.git"
    bench.post("clone", url=url, path="repo")
    assert bench.get("remotes", path="repo")["remotes"] == [
        {"name": "origin", "url": f"{server.url}/project.git"}
    ]
    said = bench.refused(400, "BAD_REQUEST", "remotes", path="repo", name="two", url=url)
    assert "git/credentials" in said


def test_credentials_go_to_no_other_server(bench: Bench, server: GitServer, tmp_path: Path) -> None:
    with git_server(tmp_path) as other:
        other.redirect = server.url
        url = f"{other.url}/project.git"
        login = {"username": USER, "password": PASSWORD}
        bench.refused(401, "GIT_AUTH_FAILED", "clone", url=url, path="x", **login)
    assert server.given == []
    login["url"] = str(tmp_path / "served" / "project.git")
    bench.refused(400, "BAD_REQUEST", "clone", path="x", **login)


def test_stored_credentials_hold_for_all_that_follows(bench: Bench, server: GitServer) -> None:
    host = server.url.removeprefix("http://")
    login = {"username": USER, "password": PASSWORD, "host": host, "protocol": "http"}
    bench.post("credentials", **login)
    bench.post("clone", url=f"{server.url}/project.git", path="repo")
    assert server.given[-1] == authorization()
    assert (bench.home / ".git-credentials").stat().st_mode & 0o077 == 0
    bench.refused(400, "BAD_REQUEST", "credentials", **{**login, "host": "a/b"})
    bench.refused(400, "BAD_REQUEST", "credentials", **{**login, "username": "a\nb"})


def test_servers_that_are_not_there_or_not_sound_are_told_apart(
    bench: Bench, server: GitServer
) -> None:
    login = {"username": USER, "password": PASSWORD}
    bench.refused(404, "GIT_REPO_NOT_FOUND", "clone", url=f"{server.url}/no", path="x", **login)
    bench.refused(502, "GIT_TRANSPORT_FAILED", "clone", url="http://127.0.0.1:1/x", path="x")
    bench.refused(502, "GIT_TRANSPORT_FAILED", "clone", url="http://no.invalid/x", path="x")


def test_a_long_clone_holds_nothing_up_and_ends_when_its_client_leaves(
    bench: Bench, server: GitServer
) -> None:
    server.stall.clear()
    body = json.dumps({"url": f"{server.url}/project.git", "path": "long"})
    client = HTTPConnection(*bench.agent.address, timeout=20)
    client.request("POST", "/git/clone", body, {"X-Yurt-Secret": SECRET})
    assert server.asked.wait(20)
    assert bench.agent.request("GET", "/version").status == 200
    assert children(bench.agent) != []
    client.close()
    eventually(lambda: children(bench.agent) == [], "the end of git")
    eventually(lambda: not (bench.home / "long").exists(), "the end of the clone's directory")


def test_a_certificate_that_nobody_knows_is_refused_unless_told_otherwise(
    bench: Bench, upstream: tuple[Path, str], tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    what = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    where = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([openssl, "req", *what, *where], check=True, capture_output=True)
    with git_server(upstream[0].parent, locked=False) as server:
        server.lock_with(certificate, key)
        url = f"{server.url}/project.git"
        bench.refused(502, "GIT_TRANSPORT_FAILED", "clone", url=url, path="repo")
        bench.post("clone", url=url, path="repo", insecure_skip_tls=True)
    assert "sslVerify" not in (bench.home / "repo" / ".git" / "config").read_text()


def test_a_body_of_an_old_client_without_a_type_is_understood(bench: Bench) -> None:
    repo = bench.repository()
    raw = json.dumps({"path": "repo", "name": "old", "unknown": None}).encode()
    assert bench.agent.request("POST", "/git/branches", raw).status == 201
    assert git(repo, "branch", "--show-current") == "old"
