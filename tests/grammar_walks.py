"""A vocabulary without a model, and random walks through a grammar with it."""

from __future__ import annotations

import random
import string

import numpy as np

from server.engine.grammar import GrammarCompiler, GrammarMatcher, TokenTable
from server.errors import RequestError
from server.messages.sampling import Grammar

END = 256
# All bytes, the end, and some longer tokens, as a real vocabulary has them.
PIECES = [
    *(bytes([byte]) for byte in range(256)),
    b"",
    *(f"{a}{b}".encode() for a in '"{}[],: ae01' for b in '"{}[],: ae01'),
    "é".encode(),
    b'":',
    b"true",
]
COMPILER = GrammarCompiler(TokenTable(PIECES, frozenset({END})))


def spell(text: str) -> list[int]:
    return list(text.encode())


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the whole text, and not only its beginning, fits."""
    matcher = COMPILER.matcher(grammar)
    for token in spell(text):
        if token not in allowed(matcher):
            return False
        matcher.accept(token, bytes([token]))
    return matcher.ended or END in allowed(matcher)


def allowed(matcher: GrammarMatcher) -> set[int]:
    """The tokens that may come next."""
    logits = np.zeros(len(PIECES), np.float32)
    try:
        matcher.restrict(logits)
    except RequestError:
        return set()
    return set(np.flatnonzero(logits > -np.inf).tolist())


def walk(grammar: Grammar, seed: int, steps: int = 3000) -> str | None:
    """A random text that fits, as a model without any sense would write it; None: no end."""
    draw = random.Random(seed)
    matcher, written = COMPILER.matcher(grammar), b""
    dull = set(string.ascii_letters.encode() + b'"}], 0123456789')
    for step in range(steps):
        if matcher.ended:
            return written.decode()
        choices = allowed(matcher)
        if END in choices and (draw.random() < 0.5 or step > steps // 2):
            return written.decode()
        # Now and then the strangest that may come; mostly what leads to an end some time.
        plain = sorted(choices & dull)
        closing = sorted(choices & set(b'"}]'))
        if closing and draw.random() < 0.3:
            plain = closing
        pool = plain if plain and draw.random() < 0.9 else sorted(choices - {END})
        token = draw.choice(pool)
        matcher.accept(token, PIECES[token])
        written += PIECES[token]
    return None
