"""Uploads and models, as OpenAI lists them."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from server.api.shapes.base import shape


@shape
class FileObject(TypedDict):
    """An upload."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


@shape
class FileList(TypedDict):
    """A page of uploads."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@shape
class FileDeleted(TypedDict):
    """An upload is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


@shape
class Architecture(TypedDict):
    """What goes in and what comes out, as OpenRouter and llama.cpp's router list it."""

    input_modalities: list[Literal["text", "image"]]
    output_modalities: list[Literal["text"]]


@shape
class ModelObject(TypedDict):
    """A model; ``meta`` holds its facts, under llama-server's names where it has them."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    capabilities: list[Literal["completion", "multimodal"]]
    max_model_len: int
    context_length: int
    architecture: Architecture
    meta: dict[str, Any]


@shape
class ModelInShort(TypedDict):
    """A model as llama-server lists it for Ollama's clients."""

    name: str
    model: str
    type: Literal["model"]
    capabilities: list[Literal["completion", "multimodal"]]
    details: dict[str, str]


@shape
class ModelList(TypedDict):
    """The one model, in lists of two shapes, as llama-server has it."""

    object: Literal["list"]
    data: list[ModelObject]
    models: list[ModelInShort]
