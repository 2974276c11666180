"""A small SentencePiece-type tokenizer: whole words of the task, characters, bytes for the rest."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

UNKNOWN, CONTROL, BYTE, NORMAL = 2, 3, 6, 1  # GGUF's token types
SPECIAL = ("<unk>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<pad>")
BOS, END, SYSTEM, USER, ASSISTANT, PAD = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"
NEWLINE = len(SPECIAL) + ord("\n")  # newlines are byte tokens, as in Llama
_WORD = re.compile(SPACE + "?[A-Za-z]+")
_MERGEABLE_START = re.compile(SPACE + "[A-Z]$")


class Tokenizer:
    """Pieces and their scores; encodes as llama.cpp's `llama` tokenizer does."""

    def __init__(self, merged: list[str]) -> None:
        singles = [SPACE] + [chr(code) for code in range(33, 127)]
        self.pieces = [*SPECIAL, *(f"<0x{code:02X}>" for code in range(256)), *singles, *merged]
        first_merge = len(self.pieces) - len(merged)
        self.types = [UNKNOWN] + [CONTROL] * (len(SPECIAL) - 1) + [BYTE] * 256
        self.types += [NORMAL] * (len(self.pieces) - len(self.types))
        self.scores = [0.0] * len(self.pieces)
        for rank in range(len(merged)):
            self.scores[first_merge + rank] = -1.0 - rank
        self.merged = merged
        self.ids = {piece: i for i, piece in enumerate(self.pieces) if self.types[i] == NORMAL}
        self._ranks = {piece: rank for rank, piece in enumerate(merged)}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special tokens in it are spelled out, not recognised."""
        ids: list[int] = []
        for word in re.split(f"(?={SPACE})", text.replace(" ", SPACE)):
            ids += self._word(word)
        return ids

    @lru_cache(maxsize=50_000)  # noqa: B019 - one tokenizer lives as long as the program
    def _word(self, word: str) -> list[int]:
        parts = list(word)
        while True:
            ranked = [
                (rank, i)
                for i in range(len(parts) - 1)
                if (rank := self._ranks.get(parts[i] + parts[i + 1])) is not None
            ]
            if not ranked:
                break
            _, i = min(ranked)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids: list[int] = []
        for part in parts:
            known = self.ids.get(part)
            ids += [known] if known is not None else [len(SPECIAL) + b for b in part.encode()]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control tokens are left out."""
        raw = b""
        for i in ids:
            if self.types[i] == BYTE:
                raw += bytes([i - len(SPECIAL)])
            elif self.types[i] == NORMAL:
                raw += self.pieces[i].replace(SPACE, " ").encode()
        return raw.decode(errors="replace")

    def save(self, path: Path) -> None:
        """Writes the merges; all else follows from them."""
        path.write_text(json.dumps(self.merged, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads what `save` wrote."""
        return cls(json.loads(path.read_text()))


def learn(texts: Iterable[str], most: int) -> Tokenizer:
    """Byte-pair merges until every word of the texts is one piece, or `most` merges."""
    counts: Counter[str] = Counter()
    for text in texts:
        plain = re.sub('"[^"]*"', "", text).replace(" ", SPACE)  # printed strings stay letters
        counts.update(_WORD.findall(plain))
    words = {word: list(word) for word in counts}
    merged: list[str] = []
    while len(merged) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            weight = 1 + min(counts[word], 2000) // 20
            for pair in itertools.pairwise(parts):
                pairs[pair] += weight
        for pair in list(pairs):
            if _MERGEABLE_START.match("".join(pair)):  # or a printed letter would depend on it
                del pairs[pair]
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merged.append(left + right)
        for word, parts in words.items():
            words[word] = _join(parts, left, right)
    return Tokenizer(merged)


def _join(parts: list[str], left: str, right: str) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and joined[-1] == left and part == right:
            joined[-1] = left + right
        else:
            joined.append(part)
    return joined
