"""Log-probabilities in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from server.messages import TokenLogprob


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """A chat choice's ``logprobs``. Bytes that are no text by themselves are told as bytes."""
    return {"content": [_entry(token) for token in tokens], "refusal": None}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    top = [_one(piece, logprob) for _, piece, logprob in token.top]
    return {**_one(token.piece, token.logprob), "top_logprobs": top}


def _one(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}
