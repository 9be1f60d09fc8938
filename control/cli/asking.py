"""Asking Nomad, Consul and the registry over HTTP, for commands that look at a cluster.

What places jobs and keeps routes is in ``jobs`` and ``traefik``; this only looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from control.errors import NotFoundError, UnavailableError
from jobs.tls import client_context

if TYPE_CHECKING:
    import ssl

    from control.settings import Settings

TIMEOUT_SECONDS = 5.0
_REFUSED = (401, 403)
_MISSING = 404


class Server:
    """One HTTP server that answers JSON, to be closed when done (``with``)."""

    def __init__(
        self,
        name: str,
        url: str,
        headers: dict[str, str],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name, self.url = name, url
        self._client = httpx.Client(
            base_url=url,
            headers=headers,
            verify=tls or httpx.create_ssl_context(trust_env=False),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **parameters: str) -> Any:
        """Return what it answers.

        Raises:
            NotFoundError: it has no such thing.
            UnavailableError: it does not answer, or refuses; the text says what to look at.
        """
        return self._answer("GET", path, params=parameters).json()

    def put(self, path: str, body: dict[str, Any]) -> None:
        """Send something; the errors are those of ``get``."""
        self._answer("PUT", path, json=body)

    def response(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Return whatever it answers, also a failure."""
        return self._sent("GET", path, headers=headers)

    def _answer(self, method: str, path: str, **rest: Any) -> httpx.Response:
        answer = self._sent(method, path, **rest)
        if answer.status_code == _MISSING:
            raise NotFoundError(f"{self.name} at {self.url} has no {path}")
        if answer.status_code in _REFUSED:
            raise UnavailableError(
                f"{self.name} at {self.url} refuses {path}: see what its token may do"
            )
        if not answer.is_success:
            raise UnavailableError(
                f"{self.name} at {self.url} cannot serve {path}: {answer.text.strip()[:200]}"
            )
        return answer

    def _sent(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **rest)
        except httpx.HTTPError as exc:
            raise UnavailableError(f"cannot reach {self.name} at {self.url}: {exc}") from exc


def nomad(settings: Settings, url: str = "") -> Server:
    """Ask Nomad as the settings say, or one of its agents by its URL."""
    token = settings.token("NOMAD")
    tls = client_context("NOMAD", settings.nomad_ca, settings.nomad_cert, settings.nomad_key)
    headers = {"X-Nomad-Token": token} if token else {}
    return Server("Nomad", url or settings.nomad_url, headers, tls=tls)


def consul(settings: Settings) -> Server:
    """Ask Consul as the settings say."""
    token = settings.token("CONSUL")
    tls = client_context("CONSUL", settings.consul_ca, settings.consul_cert, settings.consul_key)
    headers = {"X-Consul-Token": token} if token else {}
    return Server("Consul", settings.consul_url, headers, tls=tls)
