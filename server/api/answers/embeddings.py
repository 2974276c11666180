"""Vectors."""

from __future__ import annotations

from typing import Literal

from server.api.answers.base import Answer
from server.api.answers.chat import Count


class EmbeddingDetails(Answer):
    """How many of the tokens are pictures."""

    image_tokens: Count


class EmbeddingUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: Count
    total_tokens: Count
    prompt_tokens_details: EmbeddingDetails


class EmbeddingObject(Answer):
    """One vector: numbers, or float32 in little-endian order as base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingList(Answer):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
