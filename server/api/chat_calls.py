"""Content and calls as chat completions tell them: gathered in a message, or as deltas."""

from __future__ import annotations

from typing import Any

from server.tools.parse import CallArguments, CallBegin, Content, Piece


class MessageWriter:
    """The assistant's message, from the pieces of an answer."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def add(self, piece: Piece) -> None:
        """One more piece."""
        if isinstance(piece, Content):
            self._content.append(piece.text)
        elif isinstance(piece, CallBegin):
            self._calls.append(_call(piece))
        elif isinstance(piece, CallArguments):
            self._calls[-1]["function"]["arguments"] += piece.text

    @property
    def message(self) -> dict[str, Any]:
        """The message so far; content is null where there are calls and nothing else."""
        text = "".join(self._content)
        message = {"role": "assistant", "content": text, "refusal": None}
        if not self._calls:
            return message
        return {**message, "content": text or None, "tool_calls": self._calls}


def delta_of(piece: Piece) -> dict[str, Any] | None:
    """A stream's delta for a piece, None where it needs none.

    A call's first delta has its id and name, those after it have more of its arguments.
    """
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, CallBegin):
        return {"tool_calls": [{"index": piece.index, **_call(piece)}]}
    if isinstance(piece, CallArguments):
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
    return None


def _call(piece: CallBegin) -> dict[str, Any]:
    function = {"name": piece.name, "arguments": ""}
    return {"id": f"call_{piece.id}", "type": "function", "function": function}
