"""Inputs as the engine reads them, and what their vectors are the mean of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.api.completions.prompts import mixed, with_pictures
from server.api.completions.schema import PicturePrompt
from server.api.embeddings.schema import PartsInput
from server.api.pictures import Source
from server.api.schema import FilePart, ImagePart, TextPart
from server.api.services import Services
from server.errors import RequestError
from server.messages import EngineReady, ImageInput, LiteralText, Pooling, PromptPart


@dataclass(slots=True, frozen=True)
class Input:
    """What one vector is made of; ``param`` is the request's field that holds it."""

    parts: tuple[PromptPart, ...]
    param: str

    @property
    def pooling(self) -> Pooling:
        """Pictures alone: what the projector makes of them. All else: the hidden states."""
        pictures = all(isinstance(part, ImageInput) for part in self.parts)
        return Pooling.PROJECTOR if pictures else Pooling.HIDDEN


async def read_input(services: Services, ready: EngineReady, value: object, param: str) -> Input:
    """One input. Raises RequestError, naming the field."""
    if isinstance(value, str):
        parts: Sequence[PromptPart] = (LiteralText(value),) if value else ()
    elif isinstance(value, list):
        parts = mixed(value, ready.model.n_vocab, param)
    elif isinstance(value, PicturePrompt):
        parts = (await with_pictures(services, ready, value, param)).parts
    elif isinstance(value, PartsInput):
        parts = await _content(services, ready, value.content, f"{param}.content")
    else:
        parts = await _content(services, ready, [value], param, alone=True)
    if not parts:
        raise RequestError(f"{param}: the input is empty", param=param, code="invalid_value")
    return Input(tuple(parts), param)


async def _content(
    services: Services,
    ready: EngineReady,
    content: Sequence[object],
    param: str,
    *,
    alone: bool = False,
) -> list[PromptPart]:
    sources = [
        Source(
            part.source,
            f"{param}.{part.field}" if alone else f"{param}[{place}].{part.field}",
            part.detail if isinstance(part, ImagePart) else None,
        )
        for place, part in enumerate(content)
        if isinstance(part, ImagePart | FilePart)
    ]
    pictures = iter(await services.pictures.read(sources, ready.vision))
    parts: list[PromptPart] = []
    for part in content:
        if isinstance(part, ImagePart | FilePart):
            parts.append(next(pictures))
        elif isinstance(part, TextPart) and part.text:
            parts.append(LiteralText(part.text))
    return parts
