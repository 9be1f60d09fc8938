"""The changes of the tables, in the order that each script names."""

from __future__ import annotations
