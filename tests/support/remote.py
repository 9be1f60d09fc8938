"""A server that is there already, on a cluster or anywhere: nothing of it but URL and key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Server(Protocol):
    """What tests know of any server."""

    @property
    def base_url(self) -> str:
        """Its URL without ``/api``."""

    @property
    def key(self) -> str:
        """A key of its API."""

    @property
    def variables(self) -> dict[str, str]:
        """What an SDK wants to be told, by environment variable."""

    @property
    def slowness(self) -> int:
        """Stretches every time limit."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The server with this base URL; ``/api`` at its end is as good."""

    url: str
    key: str
    slowness: int = 1

    @property
    def base_url(self) -> str:
        return self.url.rstrip("/").removesuffix("/api")

    @property
    def variables(self) -> dict[str, str]:
        url = f"{self.base_url}/api"
        return {
            "DAYTONA_API_URL": url,
            "DAYTONA_SERVER_URL": url,
            "DAYTONA_API_KEY": self.key,
            "DAYTONA_TARGET": "us",
        }
