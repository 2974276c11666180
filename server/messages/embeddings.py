"""Vectors instead of answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from server.messages.prompts import PromptPart


class Pooling(str, Enum):
    """What the mean is taken of.

    HIDDEN: the language model's last hidden states, after its final norm, of every token of the
    prompt, pictures included. PROJECTOR: the rows that the language model is given for the
    prompt's pictures; it does not run.
    """

    HIDDEN = "hidden"
    PROJECTOR = "projector"


@dataclass(slots=True, frozen=True)
class EmbedRequest:
    """A prompt whose vector is wanted; ``arrival`` as in AddRequest."""

    request_id: str
    parts: tuple[PromptPart, ...]
    pooling: Pooling
    arrival: float


@dataclass(slots=True, frozen=True)
class Embedded:
    """The answer to an EmbedRequest: float32 bytes; ``image_tokens`` are among the others."""

    request_id: str
    vector: bytes
    prompt_tokens: int
    image_tokens: int
