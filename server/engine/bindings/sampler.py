"""A chain of llama.cpp's samplers, built once a request."""

from __future__ import annotations

import ctypes
import secrets
from typing import Any

import llama_cpp

from server.engine.bindings.context import Context
from server.sampling import SamplingParams

# llama-server's window for the penalties; OpenAI's API has no parameter for it.
PENALTY_WINDOW = 64


class Sampler:
    """Owns a ``llama_sampler`` chain in llama-server's order: penalties, cuts, temperature."""

    def __init__(self, params: SamplingParams, n_vocab: int) -> None:
        settings = llama_cpp.llama_sampler_chain_default_params()
        settings.no_perf = True
        self.handle: Any = llama_cpp.llama_sampler_chain_init(settings)
        for sampler in _samplers(params, n_vocab):
            llama_cpp.llama_sampler_chain_add(self.handle, sampler)

    def sample(self, context: Context, row: int) -> int:
        """The next token from the logits of batch row ``row``; the chain remembers it."""
        return int(llama_cpp.llama_sampler_sample(self.handle, context.handle, row))

    def replay(self, token: int) -> None:
        """Brings the chain to where it was after it had sampled ``token``.

        Applied to that one candidate, the last sampler draws one random number, as it did then.
        """
        candidate = llama_cpp.llama_token_data(id=token, logit=0.0, p=1.0)
        candidates = llama_cpp.llama_token_data_array(
            data=ctypes.pointer(candidate), size=1, selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(self.handle, ctypes.byref(candidates))
        llama_cpp.llama_sampler_accept(self.handle, token)

    def close(self) -> None:
        """Frees the chain with all its samplers."""
        if self.handle:
            llama_cpp.llama_sampler_free(self.handle)
            self.handle = None


def _samplers(params: SamplingParams, n_vocab: int) -> list[Any]:
    chain: list[Any] = []
    if params.presence_penalty or params.frequency_penalty:
        chain.append(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab, PENALTY_WINDOW, 1.0, params.frequency_penalty, params.presence_penalty
            )
        )
    if params.greedy:
        return [*chain, llama_cpp.llama_sampler_init_greedy()]
    if params.top_k > 0:
        chain.append(llama_cpp.llama_sampler_init_top_k(params.top_k))
    if params.top_p < 1.0:
        chain.append(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0.0:
        chain.append(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
    seed = secrets.randbits(32) if params.seed is None else params.seed & 0xFFFFFFFF
    return [
        *chain,
        llama_cpp.llama_sampler_init_temp(params.temperature),
        llama_cpp.llama_sampler_init_dist(seed),
    ]
