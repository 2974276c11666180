"""Thoughts of models that reason before they answer: which tags they stand in, read from an answer.

Only at an answer's beginning can there be a thought: behind its opening tag, or at once where the
prompt ends with that tag. The same tags anywhere else are text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from server.tools.parse import Content, Piece, Thought

# llama-server's words: where the template has thoughts, nowhere, everywhere.
ReasoningFormat = Literal["auto", "none", "deepseek"]


@dataclass(slots=True, frozen=True)
class ThoughtTags:
    """What stands before a thought and behind it."""

    start: str
    end: str

    def begun_by(self, prompt: str) -> bool:
        """Whether ``prompt`` leaves the model within a thought."""
        return prompt.rstrip().endswith(self.start)


# DeepSeek R1's, which Qwen, GLM, MiniCPM and many others have; Mistral's; Gemma 4's; Cohere's;
# ByteDance Seed's; MiniMax M3's.
TAGS: Final = (
    ThoughtTags("<think>", "</think>"),
    ThoughtTags("[THINK]", "[/THINK]"),
    ThoughtTags("<|channel>thought", "<channel|>"),
    ThoughtTags("<|START_THINKING|>", "<|END_THINKING|>"),
    ThoughtTags("<seed:think>", "</seed:think>"),
    ThoughtTags("<mm:think>", "</mm:think>"),
)
# Tokens that must be seen in the text even where they are control tokens.
WORDS: Final = ("<|channel>", *(tag for tags in TAGS for tag in (tags.start, tags.end)))


def recognize_tags(source: str, prompt: str) -> ThoughtTags | None:
    """The tags of a template, by the prompt that it writes or else by its source."""
    for tags in TAGS:
        if tags.begun_by(prompt):
            return tags
    for tags in TAGS:
        if tags.start in source and tags.end in source:
            return tags
    return None


class ThoughtParser:
    """Divides an answer into a thought and the rest, as it comes.

    White space around a thought is dropped. ``begun``: the answer begins within a thought.
    ``thought_bytes`` is how much of the answer was no content, once some content has come.
    """

    def __init__(self, tags: ThoughtTags, *, begun: bool) -> None:
        self._tags = tags
        self._held = ""
        self._taken = 0
        self._push = self._thought if begun else self._beginning
        self._written = False
        self.thought_bytes = 0

    @property
    def thinking(self) -> bool:
        """Whether what comes next may belong to the thought."""
        return self._push != self._content

    def push(self, text: str) -> list[Piece]:
        """What is clear after ``text``."""
        if self._push == self._content:
            return [Content(text)] if text else []
        self._taken += len(text.encode())
        self._held += text
        return self._push()

    def flush(self, *, cut: bool) -> list[Piece]:
        """The end: what was held back. ``cut``: tokens ran out, maybe within a tag."""
        held, self._held = self._held, ""
        if self._push == self._beginning:
            begins = held.strip() and self._tags.start.startswith(held.lstrip())
            return [Content(held)] if held and not (cut and begins) else []
        if self._push != self._thought:
            return []
        text = held[: len(held) - self._unsure(held)] if cut else held
        return self._emit(text.rstrip())

    def _beginning(self) -> list[Piece]:
        text, start = self._held.lstrip(), self._tags.start
        if text.startswith(start):
            self._held, self._push = text[len(start) :], self._thought
            return self._thought()
        return [] if start.startswith(text) else self._answer(self._held)

    def _thought(self) -> list[Piece]:
        at = self._held.find(self._tags.end)
        if at < 0:
            keep = self._unsure(self._held)
            text = self._held[: len(self._held) - keep].rstrip()
            self._held = self._held[len(text) :]
            return self._emit(text)
        thought, self._held = self._held[:at].rstrip(), self._held[at + len(self._tags.end) :]
        pieces, self._push = self._emit(thought), self._behind
        return pieces + self._behind()

    def _behind(self) -> list[Piece]:
        text = self._held.lstrip()
        return self._answer(text) if text else []

    def _content(self) -> list[Piece]:
        raise AssertionError("content is never held")

    def _answer(self, text: str) -> list[Piece]:
        self._push, self._held = self._content, ""
        self.thought_bytes = self._taken - len(text.encode())
        return [Content(text)]

    def _emit(self, text: str) -> list[Piece]:
        if not self._written:
            text = text.lstrip()
        self._written |= bool(text)
        return [Thought(text)] if text else []

    def _unsure(self, held: str) -> int:
        """Length of the longest end of ``held`` that may begin the closing tag."""
        end = self._tags.end
        longest = min(len(end) - 1, len(held))
        return next((n for n in range(longest, 0, -1) if end.startswith(held[-n:])), 0)
