"""The process inside every sandbox that answers the toolbox API; see ``main``."""

from __future__ import annotations

VERSION = "0.1.0"
