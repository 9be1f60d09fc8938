"""Language servers through the toolbox, with the real ones for Python and TypeScript."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.agent_calls import children, lives, run
from tests.support.agent_rig import running_agent
from tests.support.language_servers import language_servers
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agent_rig import AgentRig, Answer

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

PYTHON = '''\
class Greeter:
    """Greets."""

    def greet(self, name: str) -> str:
        return name.upper()


g = Greeter()
g.
'''
TYPESCRIPT = """\
export class Greeter {
  greet(name: string): string { return name.toUpperCase(); }
}
const g = new Greeter();
g.
"""
FILES = {"python": ("sample.py", PYTHON, 8), "typescript": ("sample.ts", TYPESCRIPT, 4)}
LANGUAGES = sorted(FILES)


@pytest.fixture(scope="session")
def programs() -> Path:
    return language_servers()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    for name, content, _ in FILES.values():
        (tmp_path / "p" / name).write_text(content)
    return tmp_path


@pytest.fixture
def agent(programs: Path, home: Path) -> Iterator[AgentRig]:
    path = f"{programs}:{os.environ['PATH']}"
    with running_agent(env={"PATH": path, "HOME": str(home)}, workdir=str(home)) as rig:
        yield rig


class Client:
    """What an SDK's LspServer does."""

    def __init__(self, agent: AgentRig, language: str, project: str = "p") -> None:
        self.agent = agent
        self.named: dict[str, Any] = {"languageId": language, "pathToProject": project}

    def post(self, verb: str, **more: Any) -> Answer:
        return self.agent.request("POST", f"/lsp/{verb}", {**self.named, **more})

    def get(self, verb: str, **more: Any) -> Answer:
        return self.agent.request("GET", f"/lsp/{verb}", **self.named, **more)

    def labels(self, uri: str, line: int) -> set[str]:
        answer = self.post("completions", uri=uri, position={"line": line, "character": 2})
        assert answer.status == 200, answer.body
        assert isinstance(answer.json()["isIncomplete"], bool)
        return {item["label"].rstrip("()") for item in answer.json()["items"]}

    def symbols(self, uri: str) -> dict[str, Any]:
        answer = self.get("document-symbols", uri=uri)
        assert answer.status == 200, answer.body
        return {symbol["name"]: symbol for symbol in answer.json()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_completes_and_finds_symbols(agent: AgentRig, home: Path, language: str) -> None:
    name, _, line = FILES[language]
    client = Client(agent, language)
    assert client.post("start").status == 200
    assert client.post("start").status == 200
    uri = f"file://p/{name}"  # as SDKs write a relative path
    assert client.post("did-open", uri=uri).status == 200
    assert "greet" in client.labels(uri, line)
    found = client.symbols(uri)
    assert found["Greeter"]["kind"] == 5
    location = found["Greeter"]["location"]
    assert location["uri"] == f"file://{home}/p/{name}"
    assert location["range"]["start"]["line"] == 0
    for spelling in ("workspacesymbols", "workspace-symbols"):
        answer = client.get(spelling, query="Greeter")
        assert answer.status == 200, answer.body
        assert "Greeter" in {symbol["name"] for symbol in answer.json()}
    assert client.post("did-close", uri=uri).status == 200
    assert client.post("did-close", uri=uri).status == 200
    assert client.post("stop").status == 200
    assert client.post("stop").status == 200
    assert children(agent) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_on_the_disk_now_counts(agent: AgentRig, home: Path, language: str) -> None:
    name, content, line = FILES[language]
    client = Client(agent, language)
    client.post("start")
    client.post("did-open", uri=f"file://p/{name}")
    (home / "p" / name).write_text(content.replace("greet", "welcome"))
    assert "welcome" in client.labels(f"file://{home}/p/{name}", line)


@pytest.mark.parametrize("language", LANGUAGES)
def test_workspace_symbols_need_no_open_document(agent: AgentRig, language: str) -> None:
    client = Client(agent, language)
    client.post("start")
    answer = client.get("workspacesymbols", query="Greeter")
    assert "Greeter" in {symbol["name"] for symbol in answer.json()}


def test_javascript_has_its_own(agent: AgentRig, home: Path) -> None:
    (home / "p" / "a b%20.js").write_text("function hello() {}\n")
    client = Client(agent, "javascript", str(home / "p"))
    client.post("start")
    assert "hello" in client.symbols("file://p/a b%20.js")
    assert "hello" in client.symbols(f"file://{home}/p/a%20b%2520.js")


def test_a_project_without_documents_has_no_symbols(agent: AgentRig, home: Path) -> None:
    (home / "empty").mkdir()
    client = Client(agent, "typescript", "empty")
    client.post("start")
    assert client.get("workspacesymbols", query="x").json() == []


def test_a_server_that_died_is_started_again_with_its_documents(agent: AgentRig) -> None:
    client = Client(agent, "python")
    client.post("start")
    client.post("did-open", uri="file://p/sample.py")
    (first,) = children(agent)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not lives(first), "its end")
    assert "greet" in client.labels("file://p/sample.py", 8)
    (second,) = children(agent)
    assert second != first


def test_packages_of_the_projects_own_python_are_known(agent: AgentRig, home: Path) -> None:
    made = run(agent, "python3 -m venv --without-pip p/.venv && echo p/.venv/lib/*/site-packages")
    packages = home / made["result"].split()[-1]
    (packages / "only_there.py").write_text("def special(): ...\n")
    (home / "p/use.py").write_text("import only_there as o\no.\n")
    client = Client(agent, "python")
    client.post("start")
    assert "special" in client.labels("file://p/use.py", 1)


def test_what_was_not_started_says_so(agent: AgentRig) -> None:
    client = Client(agent, "python")
    for answer in (
        client.post("did-open", uri="file://p/sample.py"),
        client.get("document-symbols", uri="file://p/sample.py"),
        client.get("workspacesymbols", query="x"),
    ):
        assert (answer.status, answer.json()["code"]) == (400, "LSP_SERVER_NOT_INITIALIZED")
        assert "lsp/start" in answer.json()["message"]


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        ({"languageId": "cobol"}, 400, "use python, typescript, javascript"),
        ({"pathToProject": "nowhere"}, 400, "create it first"),
        ({"pathToProject": 7}, 400, "pathToProject must be a string"),
        ({"verb": "did-open", "uri": "file://p/none.py"}, 404, "file not found"),
        ({"verb": "did-open", "uri": "http://p/x"}, 400, "must begin with file://"),
        ({"verb": "did-open", "uri": "file://p"}, 400, "is a directory"),
        ({"verb": "completions", "uri": "file://p/sample.py"}, 400, "position"),
        (
            {"verb": "completions", "uri": "x", "position": {"line": -1, "character": True}},
            400,
            "whole numbers",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    agent: AgentRig, call: dict[str, Any], status: int, said: str
) -> None:
    client = Client(agent, "python")
    client.post("start")
    answer = client.post(call.pop("verb", "start"), **call)
    assert answer.status == status
    assert said in answer.json()["message"]


def test_an_image_without_the_server_names_the_remedy(home: Path) -> None:
    bare = home / "bin"
    bare.mkdir()
    found = shutil.which("sh")
    assert found is not None
    (bare / "sh").symlink_to(found)
    with running_agent(env={"PATH": str(bare)}, workdir=str(home)) as agent:
        for language, remedy in (("python", "pip install"), ("javascript", "npm install -g")):
            answer = Client(agent, language).post("start")
            assert answer.status == 400
            assert remedy in answer.json()["message"]


def test_a_server_that_ends_at_once_has_the_last_word(home: Path) -> None:
    broken = home / "bin" / "jedi-language-server"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no module named jedi >&2\nexit 3\n")
    broken.chmod(0o755)
    path = f"{broken.parent}:{os.environ['PATH']}"
    with running_agent(env={"PATH": path}, workdir=str(home)) as agent:
        client = Client(agent, "python")
        answer = client.post("start")
        assert answer.status == 502
        assert "no module named jedi" in answer.json()["message"]
        assert client.get("workspacesymbols", query="x").json()["code"].startswith("LSP_SERVER")


def test_of_many_servers_the_longest_unused_gives_way_and_comes_back(
    agent: AgentRig, home: Path
) -> None:
    clients = []
    for number in range(5):
        (home / f"p{number}").mkdir()
        (home / f"p{number}" / "m.py").write_text(f"def only{number}(): ...\n")
        clients.append(Client(agent, "python", f"p{number}"))
        assert clients[-1].post("start").status == 200
    assert len(children(agent)) == 4
    assert "only0" in clients[0].symbols("file://p0/m.py")
    assert len(children(agent)) == 4
