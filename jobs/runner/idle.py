"""For how long a sandbox has not been used, by what its gate told and its processor time.

All times are of this machine's steady clock, in seconds. No I/O: samples are handed in.
"""

from __future__ import annotations

SAMPLE_SECONDS = 10.0
WINDOW_SECONDS = 60.0
BUSY_SHARE = 0.05  # of one core
MOST_BUSY_SECONDS = 4 * 3600.0


class Idleness:
    """What is known of the use of one sandbox.

    Processor time alone counts only above a share of one core over the last minute, and only for
    so long after somebody last used the sandbox: a miner must not keep it for ever.
    """

    def __init__(self, now: float) -> None:
        self._last, self._held = now, 0
        self._busy_at = now
        self._samples: list[tuple[float, float]] = []
        self._warned_at: float | None = None
        self.share, self.most_seconds = BUSY_SHARE, MOST_BUSY_SECONDS

    def restart(self, now: float) -> None:
        """Count from now: whoever knew better, the gate, is gone."""
        self._last, self._held = now, 0

    def told(self, last: float, held: int) -> None:
        """Take what the gate tells: when the sandbox was last used, and what holds it."""
        self._last, self._held = last, held

    def is_due(self, now: float) -> bool:
        """Tell whether processor time is to be sampled again."""
        return not self._samples or now >= self._samples[-1][0] + SAMPLE_SECONDS

    def sample(self, now: float, cpu_seconds: float) -> None:
        """Take how much processor time the sandbox has used in all."""
        self._samples.append((now, cpu_seconds))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.pop(0)
        if cpu_seconds - self._samples[0][1] > self.share * WINDOW_SECONDS:
            self._busy_at = now

    def seconds(self, now: float) -> float:
        """For how long it has not been used."""
        return min(self._unused(now), self.unbusy(now))

    def _unused(self, now: float) -> float:
        return 0.0 if self._held else now - self._last

    def unbusy(self, now: float) -> float:
        """For how long it has not been busy, as far as that counts."""
        used = now if self._held else self._last
        return now - max(used, min(self._busy_at, used + self.most_seconds))

    def warn(self, now: float) -> None:
        """Note that the sandbox was warned of its stop."""
        self._warned_at = now

    def is_warned(self, now: float) -> bool:
        """Tell whether a warning stands; use of the sandbox takes it back."""
        if self._warned_at is not None and now - self.seconds(now) > self._warned_at:
            self._warned_at = None
        return self._warned_at is not None
