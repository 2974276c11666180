"""The model that is served."""

from __future__ import annotations

from typing import Any, Literal

from server.api.answers.base import Answer


class ModelObject(Answer):
    """A model; ``meta`` holds its facts, under llama-server's names where it has them."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    capabilities: list[Literal["completion", "multimodal"]]
    meta: dict[str, Any]


class ModelInShort(Answer):
    """A model as llama-server lists it for Ollama's clients."""

    name: str
    model: str
    type: Literal["model"]
    capabilities: list[Literal["completion", "multimodal"]]
    details: dict[str, str]


class ModelList(Answer):
    """The one model, in lists of two shapes, as llama-server has it."""

    object: Literal["list"]
    data: list[ModelObject]
    models: list[ModelInShort]
