"""Which handler answers which request, and who is let in at all.

Handlers are named by module and function and imported at their first use, so that a sandbox
pays only for what it is asked. ``{name}`` matches one path segment, given as ``params["name"]``.
"""

from __future__ import annotations

import logging
from importlib import import_module

from yurt_agent.errors import (
    ForbiddenError,
    NotFoundError,
    ToolboxError,
    envelope,
    from_os_error,
)
from yurt_agent.http import DisconnectedError, Response, unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from yurt_agent.http import Handler, Request
    from yurt_agent.user import Identity

SECRET_HEADER = "x-yurt-secret"

ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", "/version", "info:version"),
    ("GET", "/project-dir", "info:home_dir"),
    ("GET", "/user-home-dir", "info:home_dir"),
    ("GET", "/work-dir", "info:work_dir"),
    ("GET", "/port", "info:ports"),
    ("GET", "/port/{port}/in-use", "info:port_in_use"),
    ("POST", "/env", "env:update_env"),
    ("GET", "/system/metrics", "metrics:system_metrics"),
    ("GET", "/files", "files:list_files"),
    ("DELETE", "/files", "files:delete_file"),
    ("GET", "/files/info", "files:file_info"),
    ("POST", "/files/folder", "files:create_folder"),
    ("POST", "/files/move", "files:move_file"),
    ("POST", "/files/permissions", "files:set_permissions"),
    ("GET", "/files/download", "download:download"),
    ("POST", "/files/bulk-download", "download:bulk_download"),
    ("POST", "/files/upload", "upload:upload"),
    ("POST", "/files/upload-v2", "upload:upload"),
    ("POST", "/files/bulk-upload", "upload:bulk_upload"),
    ("GET", "/files/find", "search:find_in_files"),
    ("GET", "/files/search", "search:search_files"),
    ("POST", "/files/replace", "search:replace_in_files"),
    ("POST", "/process/execute", "execute:execute"),
    ("POST", "/process/code-run", "codes:code_run"),
    ("GET", "/process/session", "session_api:list_sessions"),
    ("POST", "/process/session", "session_api:create_session"),
    ("GET", "/process/session/entrypoint/logs", "logs:entrypoint_logs"),
    ("GET", "/process/session/{session}", "session_api:get_session"),
    ("DELETE", "/process/session/{session}", "session_api:delete_session"),
    ("POST", "/process/session/{session}/exec", "session_api:session_exec"),
    ("GET", "/process/session/{session}/command/{command}", "session_api:get_command"),
    ("GET", "/process/session/{session}/command/{command}/logs", "logs:command_logs"),
    ("POST", "/process/session/{session}/command/{command}/input", "session_api:command_input"),
    ("GET", "/process/pty", "pty:list_terminals"),
    ("POST", "/process/pty", "pty:create_terminal"),
    ("GET", "/process/pty/create-connect", "pty:create_connect"),
    ("GET", "/process/pty/{terminal}", "pty:get_terminal"),
    ("DELETE", "/process/pty/{terminal}", "pty:delete_terminal"),
    ("POST", "/process/pty/{terminal}/resize", "pty:resize_terminal"),
    ("GET", "/process/pty/{terminal}/connect", "pty:connect_terminal"),
    ("GET", "/process/interpreter/execute", "interpreter_api:execute"),
    ("GET", "/process/interpreter/context", "interpreter_api:list_contexts"),
    ("POST", "/process/interpreter/context", "interpreter_api:create_context"),
    ("DELETE", "/process/interpreter/context/{context}", "interpreter_api:delete_context"),
    ("POST", "/lsp/start", "lsp:start"),
    ("POST", "/lsp/stop", "lsp:stop"),
    ("POST", "/lsp/did-open", "lsp:did_open"),
    ("POST", "/lsp/did-close", "lsp:did_close"),
    ("POST", "/lsp/completions", "lsp:completions"),
    ("GET", "/lsp/document-symbols", "lsp:document_symbols"),
    ("GET", "/lsp/workspacesymbols", "lsp:workspace_symbols"),
    ("GET", "/lsp/workspace-symbols", "lsp:workspace_symbols"),  # SDK 0.21
    ("POST", "/git/clone", "git_remotes:clone"),
    ("POST", "/git/push", "git_remotes:push"),
    ("POST", "/git/pull", "git_remotes:pull"),
    ("GET", "/git/remotes", "git_remotes:list_remotes"),
    ("POST", "/git/remotes", "git_remotes:add_remote"),
    ("POST", "/git/credentials", "git_remotes:store_credentials"),
    ("GET", "/git/status", "git_api:status"),
    ("GET", "/git/history", "git_api:history"),
    ("GET", "/git/branches", "git_api:list_branches"),
    ("POST", "/git/branches", "git_api:create_branch"),
    ("DELETE", "/git/branches", "git_api:delete_branch"),
    ("POST", "/git/checkout", "git_api:checkout"),
    ("POST", "/git/add", "git_api:add"),
    ("POST", "/git/commit", "git_api:commit"),
    ("POST", "/git/init", "git_api:init"),
    ("POST", "/git/reset", "git_api:reset"),
    ("POST", "/git/restore", "git_api:restore"),
    ("GET", "/git/config", "git_config:get_value"),
    ("POST", "/git/config", "git_config:set_value"),
    ("POST", "/git/config/user", "git_config:set_user"),
)

logger = logging.getLogger(__name__)


class Router:
    """Finds the handler of a request; literal segments win over ``{name}``."""

    def __init__(self, routes: tuple[tuple[str, str, str], ...]) -> None:
        self._literal: dict[tuple[str, bytes], str] = {}
        self._patterns: list[tuple[str, tuple[str, ...], str]] = []
        self._handlers: dict[str, Handler] = {}
        for method, pattern, target in routes:
            if "{" in pattern:
                self._patterns.append((method, tuple(pattern.split("/")), target))
            else:
                self._literal[method, pattern.encode()] = target

    def find(self, method: str, path: bytes) -> tuple[str, dict[str, str]] | None:
        """Return the handler's name and the named segments; one trailing slash is ignored."""
        path = path.removesuffix(b"/") or b"/"
        literal = self._literal.get((method, path))
        if literal is not None:
            return literal, {}
        segments = path.split(b"/")
        for wanted, pattern, target in self._patterns:
            if wanted == method and len(pattern) == len(segments):
                params = _match(pattern, segments)
                if params is not None:
                    return target, params
        return None

    def handler(self, target: str) -> Handler:
        """Import the handler, once."""
        known = self._handlers.get(target)
        if known is None:
            module, _, name = target.partition(":")
            known = getattr(import_module(f"yurt_agent.{module}"), name)
            self._handlers[target] = known
        return known


def _match(pattern: tuple[str, ...], segments: list[bytes]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for wanted, raw in zip(pattern, segments, strict=True):
        segment = unquote(raw)
        if wanted.startswith("{"):
            if not segment:
                return None
            params[wanted[1:-1]] = segment
        elif wanted != segment:
            return None
    return params


class Application:
    """Answers requests: first who is let in, then the handler, then errors as envelopes."""

    def __init__(self, secret: str, identity: Identity) -> None:
        """Let requests in that carry ``secret``; what they start belongs to ``identity``."""
        self._router = Router(ROUTES)
        self._secret = secret.encode()
        self._identity = identity

    async def __call__(self, request: Request) -> Response | None:
        """Answer one request."""
        try:
            self._admit(request)
            found = self._router.find(request.method, request.target)
            if found is None:
                raise NotFoundError(f"Cannot {request.method} {request.path}")
            target, request.params = found
            return await self._router.handler(target)(request)
        except ToolboxError as error:
            return _failure(request, error)
        except DisconnectedError:
            raise
        except OSError as error:
            return _failure(request, from_os_error(error, _name_of(error)))
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return _failure(request, ToolboxError("internal error; the sandbox's log has more"))

    def _admit(self, request: Request) -> None:
        if request.refusal is not None:
            # What could not be parsed may hold no secret, and is told nothing but that.
            raise request.refusal
        if not _equal(request.headers.get(SECRET_HEADER, "").encode("latin-1"), self._secret):
            request.keep_alive = False
            raise ForbiddenError("only the gate may call the agent")
        request.identity = self._identity


def _equal(given: bytes, wanted: bytes) -> bool:
    """Compare in a time that depends on lengths only; ``hmac`` would load OpenSSL for this."""
    difference = len(given) ^ len(wanted)
    for one, other in zip(given, wanted, strict=False):
        difference |= one ^ other
    return difference == 0 and wanted != b""


def _name_of(error: OSError) -> str:
    name = error.filename if error.filename is not None else "file"
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _failure(request: Request, error: ToolboxError) -> Response:
    body = envelope(error, method=request.method, path=request.path)
    return Response(body, error.status, error.headers, content_type="application/json")
