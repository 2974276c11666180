"""From the parts of a prompt to segments of tokens and places of pictures.

Cutting a text so that what users typed is never read as a special token.

llama.cpp first cuts a text at its special tokens and then tokenizes what lies between them, each
piece for itself (``tokenizer_st_partition`` in llama-vocab.cpp). We cut at the same places: only
the pieces that hold a typed special token are tokenized on their own, without looking for special
tokens. All seams are llama.cpp's own, so every other text becomes the very same tokens as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np

from server.engine.llama.model import Model, Strips
from server.engine.llama.mtmd import ImageSpan, Span
from server.engine.request import ImageSegment, Picture, Segment, TokenSegment
from server.engine.seams import Seams
from server.engine.vision.tower import Tower
from server.errors import RequestError
from server.messages import ImageInput, LiteralText, PromptPart, TokenIds


class Vocabulary(Protocol):
    """What tokenizing needs of a model. It does not change, and threads may share it."""

    n_vocab: int

    @property
    def add_bos(self) -> bool:
        """Whether ``add_special`` puts a BOS in front."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""

    def special_tokens(self) -> dict[str, Strips]:
        """The texts that ``parse_special`` reads as tokens, and what white space they take."""

    def whole_piece(self, token: int) -> bytes:
        """The bytes of a token, special ones written out."""

    def seams(self, n_characters: int) -> Seams | None:
        """Where a text of such a length may be cut; None if it is not known, or not worth it."""


def make_segments(
    spans: Sequence[Span], images: Sequence[ImageInput], *, whole: bool
) -> tuple[Segment, ...]:
    """The segments of a prompt with these pictures; ``whole`` ones are computed in one batch."""
    pictures = [_picture(image, index, spans) for index, image in enumerate(images)]
    first_rows = [0] * len(images)
    segments: list[Segment] = []
    for span in spans:
        if isinstance(span, ImageSpan):
            index = span.picture
            place = first_rows[index], whole, span.positions
            segments.append(ImageSegment(pictures[index], span.n_tokens, *place))
            first_rows[index] += span.n_tokens
        else:
            segments.append(TokenSegment(np.array(span, np.int32)))
    return tuple(segments)


def _picture(image: ImageInput, index: int, spans: Sequence[Span]) -> Picture:
    tiles = [span for span in spans if isinstance(span, ImageSpan) and span.picture == index]
    total = sum(tile.n_tokens for tile in tiles)
    if len(tiles) == 1:
        return Picture(image, total, tiles[0].grid_width, tiles[0].grid_height)
    return Picture(image, total, total, 1, n_tiles=len(tiles))


def check_whole(segments: Sequence[Segment], n_ubatch: int) -> None:
    """Refuses a picture that must be computed at once and cannot (llama_decode would abort).

    Raises:
        RequestError: names both numbers.
    """
    for segment in segments:
        if isinstance(segment, ImageSegment) and segment.whole and segment.size > n_ubatch:
            raise RequestError(
                f"a picture takes {segment.size} tokens, all of which this model attends to at"
                f" once, but {n_ubatch} can be computed at once; send a smaller one",
                param="messages",
            )


Text = str | LiteralText
_SPACE = " \t\n\v\f\r"


def fragments(texts: Sequence[Text], specials: Mapping[str, Strips]) -> list[Text]:
    """The texts, joined and cut anew; a LiteralText is now a piece to be read without special
    tokens.
    """
    if not any(isinstance(text, LiteralText) for text in texts):
        return ["".join(_plain(text) for text in texts)]
    whole = "".join(map(_plain, texts))
    # No special token reaches into what was typed, or out of it.
    masked = "".join("\0" * len(t.text) if isinstance(t, LiteralText) else t for t in texts)
    cut: list[Text] = []
    for start, end, before, after in _between(masked, specials):
        piece = whole[start:end]
        if "\0" in masked[start:end]:
            piece = piece.lstrip(_SPACE) if before.after else piece
            cut.append(LiteralText(piece.rstrip(_SPACE) if after.before else piece))
        elif cut and isinstance(cut[-1], str):
            cut[-1] += piece
        else:
            cut.append(piece)
    return [text for text in cut if _plain(text)]


def _between(
    text: str, specials: Mapping[str, Strips]
) -> Iterator[tuple[int, int, Strips, Strips]]:
    """Special tokens and what lies between them, in order: start, end, and the neighbours' ways."""
    longest_first = sorted(specials, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    last, before = 0, Strips()
    for found in pattern.finditer(text):
        after = specials[found[0]]
        yield last, found.start(), before, after
        yield found.start(), found.end(), Strips(), Strips()
        last, before = found.end(), after
    yield last, len(text), before, Strips()


def _plain(text: Text) -> str:
    return text.text if isinstance(text, LiteralText) else text


def tokenize_prompt(
    parts: Sequence[PromptPart], model: Model, tower: Tower | None, n_ubatch: int
) -> tuple[Segment, ...]:
    """Tokenizes text and counts pictures; nothing is encoded yet.

    Raises RequestError where it cannot be served.
    """
    images = [part for part in parts if isinstance(part, ImageInput)]
    if not images:
        tokens = _tokens(parts, model)
        return (TokenSegment(np.array(tokens, np.int32)),) if tokens else ()
    if tower is None:
        raise RequestError("this model cannot see pictures: no mmproj is loaded")
    segments = make_segments(tower.tokenize(_cut(parts, model)), images, whole=tower.whole)
    check_whole(segments, n_ubatch)
    return segments


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
        cut = fragments(texts, model.special_tokens())
        return with_bos_and_eos(tokenize_fragments(cut, model), model)
    return _mixed(parts, model)


def tokenize_fragments(pieces: Sequence[str | LiteralText], model: Vocabulary) -> list[int]:
    """The tokens of all of them, one after the other."""
    tokens: list[int] = []
    for piece in pieces:
        literal = isinstance(piece, LiteralText)
        text = piece.text if isinstance(piece, LiteralText) else piece
        tokens += model.tokenize(text, add_special=False, parse_special=not literal)
    return tokens


def with_bos_and_eos(tokens: list[int], model: Vocabulary) -> list[int]:
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
