"""Language servers as pure data: which there are, what they are told, and the wire's shapes."""

from __future__ import annotations

import os
from typing import NamedTuple

from yurt_agent.errors import BadRequestError, InvalidBodyError
from yurt_agent.http import unquote
from yurt_agent.paths import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Language(NamedTuple):
    """A language and its server.

    Attributes:
        command: the server's words.
        remedy: how it gets into an image that lacks it.
        suffixes: ends of file names, each with what the protocol calls such a document.
        needs_document: it knows a project only by an open document.
    """

    command: tuple[str, ...]
    remedy: str
    suffixes: Mapping[str, str]
    needs_document: bool = False


_TYPESCRIPT = {
    ".ts": "typescript",
    ".tsx": "typescriptreact",
    ".mts": "typescript",
    ".cts": "typescript",
    ".js": "javascript",
    ".jsx": "javascriptreact",
    ".mjs": "javascript",
    ".cjs": "javascript",
}
_NODE = Language(
    ("typescript-language-server", "--stdio"),
    "npm install -g typescript-language-server@5 typescript@5",
    _TYPESCRIPT,
    needs_document=True,
)
LANGUAGES = {
    "python": Language(
        ("jedi-language-server",),
        "pip install jedi-language-server",
        {".py": "python", ".pyi": "python"},
    ),
    "typescript": _NODE,
    "javascript": _NODE,
}

CAPABILITIES = {
    "textDocument": {
        "synchronization": {"didSave": False},
        "completion": {
            "completionItem": {
                "snippetSupport": False,
                "documentationFormat": ["markdown", "plaintext"],
            },
            "contextSupport": True,
        },
        # The wire's symbols are flat, with a location each.
        "documentSymbol": {"hierarchicalDocumentSymbolSupport": False},
    },
    "workspace": {"symbol": {}, "workspaceFolders": True},
}

_ITEM_TEXTS = ("detail", "sortText", "filterText", "insertText")


def language(name: str) -> Language:
    """Return what is known of a language.

    Raises:
        BadRequestError: there is no server for it.
    """
    found = LANGUAGES.get(name)
    if found is None:
        raise BadRequestError(
            f"no language server for languageId {name!r}: use {', '.join(LANGUAGES)}"
        )
    return found


def options(name: str, python: str) -> dict[str, object]:
    """Return the server's own settings.

    Args:
        name: the language.
        python: the interpreter whose packages the project imports; empty if there is none.
    """
    if name == "python":
        # The server's own packages are not the project's.
        workspace = {"environmentPath": python} if python else {}
        return {"workspace": workspace, "diagnostics": {"enable": False}}
    # It would download type packages by itself, in the user's name.
    return {"disableAutomaticTypingAcquisition": True}


def document_path(uri: str, workdir: str) -> bytes:
    """Return the absolute path that a document's ``uri`` means.

    Clients write ``file://`` before the path as the user gave it: relative ones begin in the
    work directory, and nothing is escaped. An escaped one is understood if there is no file of
    that very name.

    Raises:
        BadRequestError: it is no file's.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        rest = uri
    elif scheme != "file":
        raise BadRequestError(f"uri must begin with file://, not {scheme}://")
    path = resolve(rest, workdir)
    if "%" in rest and not os.path.exists(path):
        path = resolve(unquote(rest.encode("utf-8", "surrogateescape")), workdir)
    return path


def file_uri(path: bytes) -> str:
    """Write a path as servers read it."""
    from urllib.parse import quote

    return "file://" + quote(path)


def position(body: Mapping[str, object]) -> dict[str, int]:
    """Read the place of a completion, zero-based.

    Raises:
        InvalidBodyError: it is none.
    """
    given = body.get("position")
    fields = [given.get(name) for name in ("line", "character")] if isinstance(given, dict) else []
    line, character = (value if type(value) is int else -1 for value in fields or (None, None))
    if line < 0 or character < 0:
        raise InvalidBodyError("position must be {line, character}, whole numbers from 0")
    return {"line": line, "character": character}


def context(body: Mapping[str, object]) -> dict[str, object]:
    """Read what made the client ask for a completion; by default, that somebody invoked it."""
    given = body.get("context")
    if not isinstance(given, dict) or type(given.get("triggerKind")) is not int:
        return {"triggerKind": 1}
    character = given.get("triggerCharacter")
    found: dict[str, object] = {"triggerKind": given["triggerKind"]}
    return {**found, "triggerCharacter": character} if isinstance(character, str) else found


def completions(result: object) -> dict[str, object]:
    """Turn a server's answer, a list or an object with one, into the wire's."""
    incomplete, items = False, result
    if isinstance(result, dict):
        incomplete, items = bool(result.get("isIncomplete")), result.get("items")
    found = [_item(item) for item in items] if isinstance(items, list) else []
    return {"isIncomplete": incomplete, "items": found}


def _item(item: Mapping[str, object]) -> dict[str, object]:
    edit = item.get("textEdit")
    found: dict[str, object] = {"label": item.get("label", "")}
    if isinstance(edit, dict) and "newText" in edit:
        found["insertText"] = edit["newText"]
    found.update({name: item[name] for name in _ITEM_TEXTS if isinstance(item.get(name), str)})
    if isinstance(item.get("kind"), int):
        found["kind"] = item["kind"]
    documentation = item.get("documentation")
    if isinstance(documentation, str):
        # Older clients take an object only.
        documentation = {"kind": "plaintext", "value": documentation}
    if isinstance(documentation, dict):
        found["documentation"] = documentation
    return found


def symbols(result: object) -> list[dict[str, object]]:
    """Turn a server's answer into the wire's; null is none."""
    if not isinstance(result, list):
        return []
    return [
        {
            "name": symbol["name"],
            "kind": symbol["kind"],
            "location": {
                "uri": symbol["location"]["uri"],
                "range": {
                    end: {
                        axis: symbol["location"]["range"][end][axis]
                        for axis in ("line", "character")
                    }
                    for end in ("start", "end")
                },
            },
        }
        for symbol in result
    ]
