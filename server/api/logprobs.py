"""Log-probabilities in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from server.messages import TokenLogprob


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """A chat choice's ``logprobs``. Bytes that are no text by themselves are told as bytes."""
    return {"content": [_entry(token) for token in tokens], "refusal": None}


def text_logprobs(tokens: Iterable[TokenLogprob], offset: int) -> dict[str, Any]:
    """A completion choice's ``logprobs`` in OpenAI's older shape, after ``offset`` characters."""
    texts: list[str] = []
    offsets: list[int] = []
    tokens = list(tokens)
    for token in tokens:
        texts.append(_text(token.piece))
        offsets.append(offset)
        offset += len(texts[-1])
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {_text(piece): logprob for _, piece, logprob in reversed(token.top)} for token in tokens
        ],
        "text_offset": offsets,
    }


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _entry(token: TokenLogprob) -> dict[str, Any]:
    top = [_one(piece, logprob) for _, piece, logprob in token.top]
    return {**_one(token.piece, token.logprob), "top_logprobs": top}


def _one(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": logprob, "bytes": list(piece)}
