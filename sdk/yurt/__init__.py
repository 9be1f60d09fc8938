"""The client of a Yurt server: its wire API from Python, and the command line ``yurt``."""

from __future__ import annotations

from yurt.client import ApiError, Client, Sandbox, UnreachableError, YurtClientError

__all__ = ["ApiError", "Client", "Sandbox", "UnreachableError", "YurtClientError"]
