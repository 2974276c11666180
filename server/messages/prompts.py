"""What a prompt is made of."""

from __future__ import annotations

from dataclasses import dataclass

from server.messages.pictures import ImageInput


@dataclass(slots=True, frozen=True)
class LiteralText:
    """Characters that mean nothing but themselves, though they look like a special token."""

    text: str


@dataclass(slots=True, frozen=True)
class TokenIds:
    """Text that the client has tokenized itself."""

    ids: tuple[int, ...]


# A plain string is text in which the model's special tokens count as such.
PromptPart = str | LiteralText | TokenIds | ImageInput
