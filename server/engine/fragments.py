"""Cutting a text so that what users typed is never read as a special token.

llama.cpp first cuts a text at its special tokens and then tokenizes what lies between them, each
piece for itself (``tokenizer_st_partition`` in llama-vocab.cpp). We cut at the same places: only
the pieces that hold a typed special token are tokenized on their own, without looking for special
tokens. All seams are llama.cpp's own, so every other text becomes the very same tokens as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from server.engine.bindings.model import Strips
from server.messages import LiteralText

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
