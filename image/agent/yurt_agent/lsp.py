"""The routes of language servers: start, stop, documents, completions and symbols."""

from __future__ import annotations

import os

from yurt_agent import lsp_forms
from yurt_agent.errors import BadRequestError
from yurt_agent.fields import text
from yurt_agent.http import Request, Response, in_thread
from yurt_agent.lsp_servers import SERVERS, Server
from yurt_agent.paths import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


async def start(request: Request) -> Response:
    """Answer ``POST /lsp/start``; one that was started is no error."""
    name, project = _named(request, await request.json())
    if not await in_thread(os.path.isdir, project):
        raise BadRequestError(
            f"pathToProject is no directory that exists: {os.fsdecode(project)}: create it first"
        )
    await SERVERS.start(name, project, request.identity)
    return Response()


async def stop(request: Request) -> Response:
    """Answer ``POST /lsp/stop``; one that was not started is no error."""
    await SERVERS.stop(*_named(request, await request.json()))
    return Response()


async def did_open(request: Request) -> Response:
    """Answer ``POST /lsp/did-open``; the file is read here."""
    body = await request.json()
    server = await SERVERS.use(*_named(request, body))
    await server.open(_document(request, text(body, "uri")))
    return Response()


async def did_close(request: Request) -> Response:
    """Answer ``POST /lsp/did-close``."""
    body = await request.json()
    server = await SERVERS.use(*_named(request, body))
    await server.close(_document(request, text(body, "uri")))
    return Response()


async def completions(request: Request) -> Response:
    """Answer ``POST /lsp/completions`` for the file as it is on the disk."""
    body = await request.json()
    where, context = lsp_forms.position(body), lsp_forms.context(body)
    server = await SERVERS.use(*_named(request, body))
    uri = await server.open(_document(request, text(body, "uri")))
    asked = {"textDocument": {"uri": uri}, "position": where, "context": context}
    result = await server.ask("textDocument/completion", asked)
    return Response.json(lsp_forms.completions(result))


async def document_symbols(request: Request) -> Response:
    """Answer ``GET /lsp/document-symbols`` for the file as it is on the disk."""
    server = await _queried(request)
    uri = await server.open(_document(request, _required(request, "uri")))
    result = await server.ask("textDocument/documentSymbol", {"textDocument": {"uri": uri}})
    return Response.json(lsp_forms.symbols(result))


async def workspace_symbols(request: Request) -> Response:
    """Answer ``GET /lsp/workspacesymbols``: those of the whole project that match ``query``."""
    server = await _queried(request)
    if not await server.open_any():
        return Response.json([])
    result = await server.ask("workspace/symbol", {"query": request.first("query")})
    return Response.json(lsp_forms.symbols(result))


async def _queried(request: Request) -> Server:
    names = ("languageId", "pathToProject")
    return await SERVERS.use(*_named(request, {n: _required(request, n) for n in names}))


def _named(request: Request, body: Mapping[str, object]) -> tuple[str, bytes]:
    """Return the language and the project's absolute path, both checked in form."""
    name, project = text(body, "languageId"), text(body, "pathToProject")
    lsp_forms.language(name)
    return name, resolve(project.removeprefix("file://"), request.identity.workdir)


def _document(request: Request, uri: str) -> bytes:
    return lsp_forms.document_path(uri, request.identity.workdir)


def _required(request: Request, name: str) -> str:
    value = request.first(name)
    if not value:
        raise BadRequestError(f"the query parameter {name} is required")
    return value
