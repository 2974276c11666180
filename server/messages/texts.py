"""Text to tokens and back, asked for its own sake."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class TokenizeRequest:
    """A text to be tokenized, as llama-server's /tokenize has it."""

    request_id: str
    text: str
    add_special: bool
    parse_special: bool


@dataclass(slots=True, frozen=True)
class DetokenizeRequest:
    """Tokens whose text is wanted."""

    request_id: str
    tokens: tuple[int, ...]


@dataclass(slots=True, frozen=True)
class Tokenized:
    """The answer to both: tokens, and the bytes that each stands for."""

    request_id: str
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
