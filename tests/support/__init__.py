"""Parts that tests of several tiers share."""

from __future__ import annotations
