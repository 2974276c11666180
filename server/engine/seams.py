"""Places where a text may be cut so that its pieces have the very tokens of the whole text.

llama.cpp's tokenizer for SentencePiece vocabularies takes quadratic time where characters become
bytes: ``resegment`` (llama-vocab.cpp) has the output reserve exactly what it needs, so that each
such character copies all tokens before it. Pieces make that linear, and can be given up between
two of them.

SentencePiece and BPE only ever join what a token of the vocabulary spells. So nothing joins across
two neighbouring characters that no token has side by side. Special tokens count as tokens here. A
cut does not touch white space that a special token could swallow, or follow a special token, after
which SentencePiece writes a space. BPE first splits a text into words by a regular expression that
differs by model, and some look up a whole word first; a cut is before a space between letters,
where each of those expressions begins a word. Within words BPE takes linear time by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Characters of a piece, at least: a few milliseconds of tokenizing.
PIECE: Final = 4096
# Characters in which a seam is looked for before a larger piece is taken.
_REACH: Final = 4096
# Tokens that are looked at in one go, about a millisecond.
_REST: Final = 256
_SPACE: Final = "\u2581"
# Characters that stand before a piece in place of the text before it.
_STAND_INS: Final = [chr(code) for code in (*range(1, 9), *range(0xE000, 0xE100))]


@dataclass(slots=True, frozen=True)
class Seams:
    """What is needed to find a vocabulary's seams.

    ``pairs`` are the neighbouring characters within tokens, ``partial`` those where one of the two
    is not whole: its last or first bytes. ``specials`` are the texts of special tokens.
    ``stand_in`` is a character that no token joins with another one; it goes in front of a piece
    where the tokenizer would write a space. ``words``: it splits texts into words first.
    """

    pairs: frozenset[tuple[str, str]]
    partial: frozenset[tuple[bytes, bytes]]
    specials: tuple[str, ...]
    stand_in: str
    words: bool

    def cuts(self, text: str) -> Iterator[int]:
        """The places to cut a text at, in order."""
        place = PIECE
        while place < len(text) - 1:
            end = min(place + _REACH, len(text) - 1)
            found = next((at for at in range(place, end) if self.is_seam(text, at)), None)
            if found is not None:
                yield found
            place = (found or end) + PIECE

    def is_seam(self, text: str, place: int) -> bool:
        """Whether the text may be cut before the character at ``place``; it is not the last."""
        left, right, after = text[place - 1], text[place], text[place + 1]
        if _is_blank(left) or text.endswith(self.specials, 0, place):
            return False
        if right == " ":
            if _is_blank(after) or text.startswith(self.specials, place + 1):
                return False
            if self.words and not (_is_letter(left) and _is_letter(after)):
                return False
        elif _is_blank(right) or self.words:
            return False
        return not self._joins(left, right)

    def _joins(self, left: str, right: str) -> bool:
        if (left, right) in self.pairs:
            return True
        if not self.partial:
            return False
        one, other = left.encode(), right.encode()
        return any(
            (one[start:], other[:end]) in self.partial
            for start in range(len(one))
            for end in range(1, len(other) + 1)
        )


def find_seams(pieces: Iterable[bytes], specials: Iterable[str], *, words: bool) -> Seams | None:
    """The seams of a vocabulary; None where no character can stand in.

    ``pieces`` are the bytes of its tokens.
    """
    texts = tuple(text for text in specials if text)
    pairs: set[tuple[str, str]] = set()
    partial: set[tuple[bytes, bytes]] = set()
    for number, piece in enumerate((*pieces, *(text.encode() for text in texts))):
        if number % _REST == 0:
            time.sleep(0.0002)  # lets the loop have Python's lock
        if len(piece) < 2:
            continue
        try:
            pairs.update(pairwise(piece.decode()))
        except UnicodeDecodeError:
            partial.update(pairwise(_characters(piece)))
    joined = {character for pair in pairs for character in pair}
    stand_in = next((one for one in _STAND_INS if one not in joined), None)
    if stand_in is None:
        return None
    return Seams(frozenset(pairs), frozenset(partial), texts, "" if words else stand_in, words)


def _characters(piece: bytes) -> list[bytes]:
    """The characters of a piece of which the first and the last may be cut."""
    starts = [at for at, byte in enumerate(piece) if byte & 0xC0 != 0x80]
    starts = starts if starts and starts[0] == 0 else [0, *starts]
    return [piece[start:end] for start, end in pairwise([*starts, len(piece)])]


def _is_blank(character: str) -> bool:
    return character.isspace() or character in {_SPACE, "\0"}


def _is_letter(character: str) -> bool:
    """A letter in every version of Unicode that a tokenizer may know."""
    known = character < "\u0600" or "\u3041" <= character <= "\ud7a3"
    return known and character.isalpha()
