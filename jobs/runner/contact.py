"""When control was last heard of: when to ask it again, and for how long its last word holds.

Control tells of every change of who may enter. What it could not tell, because it or the way to it
was away, a runner asks for. Pure: told the time, in seconds of a clock that is never set.
"""

from __future__ import annotations

PULL_SECONDS = 30.0
"""From an answer to the next question, at most."""

_QUESTIONS = 3  # within the grace, so that no single answer matters

GRACE_SECONDS = 86400.0
"""How long a last word holds that does not say so itself: an older control's."""


class Contact:
    """What is known of the contact to control; the first contact is the moment ``now``."""

    def __init__(self, now: float) -> None:
        self._heard_at = now
        self._is_asking = False
        self._over_at = now
        self.lapsed = False

    def is_due(self, now: float, grace: float) -> bool:
        """Tell whether to ask now; that is noted. Nothing is asked while an answer is awaited."""
        wait = min(PULL_SECONDS, grace / _QUESTIONS)
        if self._is_asking or now < self._over_at + wait:
            return False
        self._is_asking = True
        return True

    def over(self, now: float) -> None:
        """Note that a question was answered, or got no answer."""
        self._is_asking = False
        self._over_at = now

    def heard(self, now: float) -> bool:
        """Note that control said something; return whether its last word had ceased to hold."""
        had_lapsed, self.lapsed = self.lapsed, False
        self._heard_at = now
        return had_lapsed

    def lapses(self, now: float, grace: float) -> bool:
        """Tell, once, that nothing was heard for longer than ``grace`` seconds."""
        if self.lapsed or now <= self._heard_at + grace:
            return False
        self.lapsed = True
        return True
