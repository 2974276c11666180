"""Texts and tokens."""

from __future__ import annotations

from server.api.answers.base import Answer


class TokenPiece(Answer):
    """A token; bytes where it is a part of a character."""

    id: int
    piece: str | list[int]


class TokenizedAnswer(Answer):
    """Tokens; with their pieces where these were asked for."""

    tokens: list[int] | list[TokenPiece]


class Detokenized(Answer):
    """A text. What is no character becomes U+FFFD."""

    content: str


class Templated(Answer):
    """A prompt's text. A picture is the marker that /props names."""

    prompt: str
