"""Sandboxes for AI agents: the control service."""

from __future__ import annotations
