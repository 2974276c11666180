"""What users type is text, also where it looks like one of the model's control tokens.

Before the template runs, control tokens in all that a client sent (messages, arguments, ids, tools)
are exchanged for marks that cannot be guessed; in its output the marks become LiteralText, which
the engine does not read as control tokens. The template sees everything else as it is, so whatever
it trims or splits comes out as before. JSON is searched after it was read, so that no escape hides
a token which the template would write out.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from server.messages import LiteralText
from server.prompt.turn import Part

_UNREADABLE = re.compile("[\0\ud800-\udfff]")


# The stem of the marks of the rendering that runs in this thread.
_stem: ContextVar[str] = ContextVar("literal_stem", default="")


def in_json(text: str) -> str:
    """A JSON text that a template made, whose marks now stand within strings of JSON."""
    stem = _stem.get()
    if not stem or stem not in text:
        return text
    return re.sub(re.escape(stem) + r"\d+", r"\g<0>j", text)


class Marks:
    """The marks of one rendering; those with a "j" stand within a string of JSON."""

    def __init__(self, specials: re.Pattern[str] | None) -> None:
        self._specials = specials
        self._found: list[str] = []
        self._stem = f"[literal-{secrets.token_hex(16)}-"

    def hide(self, content: tuple[Part, ...]) -> tuple[Part, ...]:
        """A turn's content with marks for the control tokens in its texts."""
        return tuple(self._hide(piece) if isinstance(piece, str) else piece for piece in content)

    def hide_all(self, value: Any) -> Any:
        """The same for every text in a value of JSON, the keys of its objects included."""
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, dict):
            return {self._hide(key): self.hide_all(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.hide_all(each) for each in value]
        return value

    def _hide(self, text: str) -> str:
        # What JSON may hold and llama.cpp cannot read; the API refuses it where it stands openly.
        text = _UNREADABLE.sub("\ufffd", text)
        return self._specials.sub(self._mark, text) if self._specials else text

    def _mark(self, match: re.Match[str]) -> str:
        self._found.append(match[0])
        return f"{self._stem}{len(self._found) - 1}]"

    @contextmanager
    def rendering(self) -> Iterator[None]:
        """A template runs, in this thread, with these marks."""
        token = _stem.set(self._stem)
        try:
            yield
        finally:
            _stem.reset(token)

    def show(self, text: str) -> list[str | LiteralText]:
        """A text with its marks taken back."""
        if not self._found:
            return [text]
        pieces = re.split(re.escape(self._stem) + r"(\d+j*)\]", text)
        # split() alternates text and what the group caught.
        return [
            LiteralText(self._literal(piece)) if odd % 2 else piece
            for odd, piece in enumerate(pieces)
        ]

    def _literal(self, mark: str) -> str:
        text = self._found[int(mark.rstrip("j"))]
        for _ in range(mark.count("j")):
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return text


def specials_pattern(specials: Sequence[str]) -> re.Pattern[str] | None:
    """Matches any of the texts, the longest first; None where there are none."""
    longest_first = sorted(filter(None, specials), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
