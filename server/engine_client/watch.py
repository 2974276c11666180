"""Whether the engine still moves: no sign of life, or one call that takes far too long.

While it loads it sends no heartbeats: there its progress is what counts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from server.gguf.split import split_names
from server.messages import EngineConfig, EngineProgress, Heartbeat

# An engine that loads may show nothing new for so many seconds, or for so many times what one that
# came to its end did: disks can be slow, and the vision tower is read in one go.
LOAD_SECONDS = 120
LOAD_PATIENCE = 4
# One that was stopped (SIGSTOP) is not slow, and is waited for no longer than one that serves.
STOPPED_SECONDS = 8
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


class LoadWatch:
    """Counts the seconds in which an engine that loads has shown nothing new, by ticks, too."""

    def __init__(self) -> None:
        self._last: object = None
        self._longest = 0
        self._stopped = 0
        self.silence = 0

    def reset(self) -> None:
        """Another engine begins."""
        self._last, self.silence, self._stopped = None, 0, 0

    def heard(self, message: object) -> None:
        """Its progress, or that it is ready. The same again is nothing new."""
        if message == self._last:
            return
        self._longest = max(self._longest, self.silence)
        self._last, self.silence = message, 0

    def tick(self, *, stopped: bool = False) -> str | None:
        """To be called once a second; what is wrong, if anything is. ``stopped``: by a signal."""
        self.silence += 1
        self._stopped = self._stopped + 1 if stopped else 0
        if self._stopped > STOPPED_SECONDS:
            return f"stopped for {self._stopped - 1} s while it loads"
        if self.silence > max(LOAD_SECONDS, LOAD_PATIENCE * self._longest):
            return f"nothing new for {self.silence - 1} s while it loads"
        return None


_WEIGHTS, _TOWER = "weights", "vision tower"


class LoadSizes:
    """The bytes of the files that the engine loads, one after the other."""

    def __init__(self, config: EngineConfig) -> None:
        self._model = size_of(config.model)
        self._mmproj = size_of(config.mmproj) if config.mmproj else 0

    def add_to(self, progress: EngineProgress) -> EngineProgress:
        """The progress with the bytes loaded, and their total."""
        loaded = self._model
        if progress.stage == _WEIGHTS:
            loaded = int(progress.fraction * self._model)
        elif progress.stage == _TOWER:
            loaded += int(progress.fraction * self._mmproj)
        else:
            loaded += self._mmproj
        return replace(progress, loaded_bytes=loaded, total_bytes=self._model + self._mmproj)


def size_of(path: Path) -> int:
    """Bytes of a GGUF, of all its parts if it has several; 0 for what is not there."""
    total = 0
    for name in split_names(path.name):
        with suppress(OSError):
            total += (path.parent / name).stat().st_size
    return total
