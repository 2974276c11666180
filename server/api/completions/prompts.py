"""Prompts as the engine reads them: no template, only pictures put where their markers stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from server.api.completions.schema import CompletionRequest, PicturePrompt
from server.api.pictures import Source
from server.api.services import Services
from server.errors import ContextLengthExceeded, ImageError, RequestError
from server.messages import EngineReady, PromptPart, TokenIds
from server.prompt import MARKER

_MOST_CHARS = 4 * 1024 * 1024


@dataclass(slots=True, frozen=True)
class Prompt:
    """One prompt: its parts, the request's field that holds it, and its text for ``echo``."""

    parts: tuple[PromptPart, ...]
    param: str
    text: str


async def read_prompts(
    services: Services, ready: EngineReady, request: CompletionRequest
) -> list[Prompt]:
    """The request's prompts. Raises RequestError, naming the field."""
    return [
        await _read(services, ready, value, param, echo=bool(request.echo))
        for value, param in request.prompts
    ]


async def _read(
    services: Services, ready: EngineReady, value: object, param: str, *, echo: bool
) -> Prompt:
    if isinstance(value, PicturePrompt):
        return await with_pictures(services, ready, value, param)
    if isinstance(value, str):
        _check_length(value, param)
        return Prompt((value,), param, value)
    assert isinstance(value, list)
    parts = mixed(value, ready.model.n_vocab, param)
    return Prompt(parts, param, await _text(services, parts) if echo else "")


async def with_pictures(
    services: Services, ready: EngineReady, value: PicturePrompt, param: str
) -> Prompt:
    """llama-server's prompt with pictures. Raises RequestError, naming the field."""
    text, data = value.prompt_string, value.multimodal_data or []
    _check_length(text, f"{param}.prompt_string")
    if not data:
        return Prompt((text,), param, text)
    pieces = text.split(MARKER)
    if len(pieces) - 1 != len(data):
        raise ImageError(
            f"{param}: {len(data)} pictures, but {len(pieces) - 1} markers {MARKER}",
            param=f"{param}.multimodal_data",
            code="invalid_value",
        )
    sources = [
        Source(_url(each), f"{param}.multimodal_data[{number}]") for number, each in enumerate(data)
    ]
    pictures = await services.pictures.read(sources, ready.vision)
    parts: list[PromptPart] = [pieces[0]]
    for picture, piece in zip(pictures, pieces[1:], strict=True):
        parts += [picture, piece]
    return Prompt(tuple(part for part in parts if part != ""), param, text)


def _url(data: str) -> str:
    """llama-server takes bare base64 here; whatever has a scheme or is an upload's id stays."""
    head = data[:64].lstrip()
    return data if ":" in head or head.startswith("file-") else f"data:;base64,{data}"


def mixed(items: Sequence[str | int], n_vocab: int, param: str) -> tuple[PromptPart, ...]:
    """Texts and ids in one sequence. Raises RequestError where there is no such token."""
    for place, item in enumerate(items):
        if isinstance(item, int) and item >= n_vocab:
            raise RequestError(
                f"{param}[{place}]: token ids go from 0 to {n_vocab - 1} in this model",
                param=f"{param}[{place}]",
                code="invalid_value",
            )
    parts: list[PromptPart] = []
    for is_text, group in groupby(items, lambda item: isinstance(item, str)):
        if is_text:
            parts += [str(item) for item in group]
        else:
            parts.append(TokenIds(tuple(int(item) for item in group)))
    return tuple(parts)


async def _text(services: Services, parts: Sequence[PromptPart]) -> str:
    texts = [
        b"".join((await services.engine.detokenize(part.ids)).pieces).decode("utf-8", "replace")
        if isinstance(part, TokenIds)
        else str(part)
        for part in parts
    ]
    return "".join(texts)


def _check_length(text: str, param: str) -> None:
    if len(text) > _MOST_CHARS:
        raise ContextLengthExceeded(
            f"{param}: {len(text)} characters, more than {_MOST_CHARS}", param=param
        )
