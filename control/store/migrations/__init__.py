"""Alembic's directory: one script for each change of the tables."""

from __future__ import annotations
