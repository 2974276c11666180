"""Tokens to text as they come: never half a character, never a part of a stop string."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Turns the bytes of sampled tokens into text that may be sent.

    Text that could still become a stop string is held back until it is clear whether it does.
    SentencePiece writes a space before the first word; like its own decoder we drop it where
    ``strip_first_space`` says that the vocabulary is of that kind. ``taken`` and ``shown`` count
    the characters that came in and those that were returned.
    """

    def __init__(self, stop: tuple[str, ...], *, strip_first_space: bool) -> None:
        self._stops = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._strip = strip_first_space
        self.stop: str | None = None
        self.taken = 0
        self.shown = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete; ``stop`` says which."""
        return self.stop is not None

    def push(self, piece: bytes) -> str:
        """Takes the bytes of one token, returns the text that is now safe to send.

        Once a stop string is complete, ``stopped`` is set, and what came before it is returned.
        """
        return self._release(self._decoder.decode(piece))

    @property
    def within_character(self) -> bool:
        """Whether the last bytes are a part of a character."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """The end: returns whatever was held back, a cut character as U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        self.shown += len(self._held)
        text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if self._strip and text:
            text, self._strip = text.removeprefix(" "), False
        self._held += text
        self.taken += len(text)
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            end, self.stop = min(found)
            safe, self._held = self._held[:end], ""
            self.shown += len(safe)
            return safe
        keep = self._unsure()
        split = len(self._held) - keep
        safe, self._held = self._held[:split], self._held[split:]
        self.shown += len(safe)
        return safe

    def _unsure(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stops), default=0) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
