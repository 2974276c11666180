"""Reading calls from an answer while it is still being written."""

from __future__ import annotations

from dataclasses import dataclass

from server.tools.style import ToolStyle
from server.tools.tool import new_call_id


@dataclass(slots=True, frozen=True)
class Content:
    """Text that is for the reader."""

    text: str


@dataclass(slots=True, frozen=True)
class Thought:
    """What the model thinks before it answers (server.tools.reasoning)."""

    text: str


@dataclass(slots=True, frozen=True)
class CallBegin:
    """A call begins; ``index`` counts from 0."""

    index: int
    id: str
    name: str


@dataclass(slots=True, frozen=True)
class CallArguments:
    """More of the arguments of the call ``index``."""

    index: int
    text: str


@dataclass(slots=True, frozen=True)
class CallEnd:
    """The arguments of the call ``index`` are complete: the text of a JSON object."""

    index: int


Piece = Content | Thought | CallBegin | CallArguments | CallEnd


class CallParser:
    """Divides an answer into content and calls, as it comes.

    The answer was written under the grammar of ``style`` (server.tools.grammar), so a call that
    has begun can only end early, where tokens ran out. Nothing of a call's markup gets into the
    content, however it is cut; white space before a call is dropped, and so is an answer's
    content that is nothing else.
    """

    def __init__(self, style: ToolStyle) -> None:
        self._style = style
        self._held = ""
        self._begun = False
        self._written = False
        self._index = -1
        self._arguments: _Object | None = None

    @property
    def in_call(self) -> bool:
        """Whether the first call has begun; no content comes after it."""
        return self._begun

    def push(self, text: str) -> list[Piece]:
        """What is clear after ``text``."""
        self._held += text
        pieces: list[Piece] = []
        if not self._begun:
            pieces += self._content()
        while self._begun and self._held:
            if self._arguments is not None:
                pieces += self._continue(self._arguments)
            elif not self._open(pieces):
                break
        return pieces

    def flush(self, *, cut: bool) -> list[Piece]:
        """The end: content that was held back. ``cut``: tokens ran out, so that what looks like
        the beginning of a call may well be one.
        """
        held, self._held = self._held, ""
        if cut and not self._begun:
            held = held[: len(held) - self._unsure(held)]
        return [] if self._begun or not held else self._emit(held)

    def _content(self) -> list[Piece]:
        at = self._find_start()
        if at >= 0:
            content, self._held = self._held[:at].rstrip(), self._held[at:]
            self._begun = True
            return self._emit(content) if content else []
        keep = self._unsure(self._held)
        content = self._held[: len(self._held) - keep]
        kept = len(content) - len(content.rstrip())
        content, self._held = content.rstrip(), self._held[len(self._held) - keep - kept :]
        return self._emit(content) if content else []

    def _emit(self, content: str) -> list[Piece]:
        self._written = True
        return [Content(content)]

    def _find_start(self) -> int:
        if self._style.anywhere:
            return self._held.find(self._style.start)
        begins = not self._written and self._held.lstrip().startswith(self._style.start)
        return self._held.find(self._style.start) if begins else -1

    def _unsure(self, held: str) -> int:
        """Length of the longest end of the held text that may begin a call."""
        start = self._style.start
        if not self._style.anywhere:
            first = held.lstrip()
            return len(held) if not self._written and start.startswith(first) else 0
        longest = min(len(start) - 1, len(held))
        return next((n for n in range(longest, 0, -1) if start.startswith(held[-n:])), 0)

    def _open(self, pieces: list[Piece]) -> bool:
        found = self._style.head.search(self._held)
        if found is None:
            return False
        self._held = self._held[found.end() :]
        self._index += 1
        self._arguments = _Object()
        pieces.append(CallBegin(self._index, new_call_id(), found["name"]))
        return True

    def _continue(self, arguments: _Object) -> list[Piece]:
        size = arguments.push(self._held)
        text, self._held = self._held[:size], self._held[size:]
        pieces: list[Piece] = [CallArguments(self._index, text)]
        if arguments.ended:
            self._arguments = None
            pieces.append(CallEnd(self._index))
        return pieces


class _Object:
    """Finds the end of a JSON object in text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.ended = False

    def push(self, text: str) -> int:
        """How much of ``text`` belongs to the object."""
        for number, char in enumerate(text, 1):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return number
        return len(text)
