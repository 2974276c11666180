"""From the parts of a prompt to runs of tokens and places of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.engine.bindings.chunks import Span
from server.engine.bindings.model import Model
from server.engine.fragments import fragments
from server.engine.request import Run, TokenRun
from server.engine.runs import check_whole, make_runs
from server.errors import RequestError
from server.messages import ImageInput, LiteralText, PromptPart, TokenIds


class Encoder(Protocol):
    """A vision tower that is ready to serve (server.engine.vision)."""

    def tokenize(self, parts: Sequence[PromptPart]) -> list[Span]:
        """Counts a prompt."""
        ...

    def encode(self, images: Sequence[ImageInput]) -> list[NDArray[np.float32]]:
        """Encodes pictures to the rows that the language model was trained on."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the language model attends to a picture in both directions."""
        ...

    @property
    def n_sections(self) -> int:
        """Positions that an embedding has: 4 with M-RoPE, 1 otherwise."""
        ...


def prepare(
    parts: Sequence[PromptPart], model: Model, encoder: Encoder | None, n_ubatch: int
) -> tuple[Run, ...]:
    """Tokenizes text and counts pictures; nothing is encoded yet.

    Raises RequestError where it cannot be served.
    """
    images = [part for part in parts if isinstance(part, ImageInput)]
    if not images:
        tokens = _tokens(parts, model)
        return (TokenRun(np.array(tokens, np.int32)),) if tokens else ()
    if encoder is None:
        raise RequestError("this model cannot see pictures: no mmproj is loaded")
    runs = make_runs(encoder.tokenize(_cut(parts, model)), images, whole=encoder.whole)
    check_whole(runs, n_ubatch)
    return runs


def _cut(parts: Sequence[PromptPart], model: Model) -> list[PromptPart]:
    """The parts with the texts between pictures cut where typed special tokens want it."""
    cut: list[PromptPart] = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, str | LiteralText)):
        together = list(group)
        if is_text and any(isinstance(part, LiteralText) for part in together):
            texts = [part for part in together if isinstance(part, str | LiteralText)]
            cut += fragments(texts, model.special_tokens())
        elif any(isinstance(part, TokenIds) for part in together):
            raise RequestError("token ids and pictures cannot stand in one prompt", param="prompt")
        else:
            cut += together
    return cut


def _tokens(parts: Sequence[PromptPart], model: Model) -> list[int]:
    texts = [part for part in parts if isinstance(part, str | LiteralText)]
    if all(isinstance(part, str) for part in parts):
        return model.tokenize("".join(map(str, texts)), add_special=True)
    if len(texts) == len(parts):
        return _wrap(_of_fragments(fragments(texts, model.special_tokens()), model), model)
    return _mixed(parts, model)


def _of_fragments(pieces: Sequence[str | LiteralText], model: Model) -> list[int]:
    tokens: list[int] = []
    for piece in pieces:
        literal = isinstance(piece, LiteralText)
        text = piece.text if isinstance(piece, LiteralText) else piece
        tokens += model.tokenize(text, add_special=False, parse_special=not literal)
    return tokens


def _wrap(tokens: list[int], model: Model) -> list[int]:
    """With BOS and EOS where llama.cpp puts them around a whole prompt."""
    around = model.tokenize("", add_special=True)
    front = around[:1] if model.add_bos else []
    return [*front, *tokens, *around[len(front) :]]


def _mixed(parts: Sequence[PromptPart], model: Model) -> list[int]:
    """Ids as they are, texts between them; a BOS only before a text that comes first."""
    tokens: list[int] = []
    for number, part in enumerate(parts):
        if isinstance(part, TokenIds):
            if not all(0 <= token < model.n_vocab for token in part.ids):
                raise RequestError(
                    f"token ids go from 0 to {model.n_vocab - 1} in this model", param="prompt"
                )
            tokens += part.ids
        elif isinstance(part, str):
            tokens += model.tokenize(part, add_special=number == 0)
    return tokens
