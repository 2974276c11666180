"""Whether the engine still moves: no sign of life, or one call that takes far too long."""

from __future__ import annotations

from server.messages import Heartbeat

# Work may take so many times what it was expected to.
PATIENCE = 10.0


class Watch:
    """Counts the seconds since the engine was last heard of.

    It is the ticks that are counted, not the clock: if this process, or the whole machine, was
    stopped for an hour, that is one tick, and the engine's messages of that time come before
    the next one. ``limit`` is in seconds, 0 for no watch at all.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._silence = 0
        self._beat: Heartbeat | None = None

    def reset(self) -> None:
        """There is a new engine."""
        self._silence, self._beat = 0, None

    def heard(self, message: object) -> None:
        """A message came, whatever it is."""
        self._silence = 0
        self._beat = message if isinstance(message, Heartbeat) else None

    @property
    def step_age(self) -> float:
        """Seconds that the engine has been at its present work, as of its last heartbeat."""
        return self._beat.age if self._beat else 0.0

    def tick(self) -> str | None:
        """To be called once a second; what is wrong, if anything is."""
        self._silence += 1
        if not self._limit:
            return None
        if self._silence > self._limit:
            return f"no sign of life for {self._silence - 1} s"
        beat = self._beat
        if beat is not None and beat.age > self._limit + PATIENCE * beat.expected:
            return f"at one {beat.what} for {beat.age:.0f} s"
        return None
