"""A request's thought: where it begins and ends in the tokens, and its budget.

Grammars hold for the answer alone, so the token chooser asks here first.
"""

from __future__ import annotations

from typing import Protocol

from server.messages.sampling import ThoughtRule


class TagTokenizer(Protocol):
    """What is asked of the model."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``."""


class ThoughtGate:
    """Follows an answer's tokens. ``opening`` is the token that begins a thought, if it is one
    token: only then can a grammar leave a model the choice to think.
    """

    def __init__(self, rule: ThoughtRule, model: TagTokenizer) -> None:
        self._rule = rule
        self._end = model.tokenize(rule.end, add_special=False)
        opening = model.tokenize(rule.start, add_special=False)
        self.opening = opening[0] if len(opening) == 1 else None
        self.thinking = rule.begun
        self.undecided = not rule.begun
        self._text = b""
        self._count = 0
        self._budget = rule.budget

    @property
    def forced(self) -> int | None:
        """The token that must come next, because the budget is spent; None: any may."""
        budget = self._budget
        if not self.thinking or budget is None or self._count < budget:
            return None
        at = self._count - budget
        return self._end[at] if at < len(self._end) else None

    def close(self) -> int | None:
        """End the thought now; the first token of the closing tag."""
        self._budget = self._count
        return self.forced

    def accept(self, piece: bytes) -> None:
        """A token was chosen that stands for ``piece``."""
        if not self.thinking and not self.undecided:
            return
        self._text += piece
        if self.thinking:
            self._count += 1
            end = self._rule.end.encode()
            if end in self._text:
                self.thinking, self._text = False, b""
            else:
                self._text = self._text[-len(end) :]
            return
        start, text = self._rule.start.encode(), self._text.lstrip()
        if text.startswith(start):
            self.thinking, self.undecided, self._text = True, False, b""
        elif not start.startswith(text):
            self.undecided, self._text = False, b""
