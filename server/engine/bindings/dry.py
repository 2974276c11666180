"""The DRY sampler, whose making walks the whole vocabulary for each of its sequence breakers."""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from typing import Any

import llama_cpp

from server.engine.bindings.model import Model
from server.sampling import SamplingParams

_KEPT = 8


class DrySamplers:
    """Makes DRY samplers: clones of the last ones made, which cost nothing.

    45 ms were measured for the four default breakers and 49,152 tokens, so whoever knows of a
    request early calls ``foresee`` in a thread of its own.
    """

    def __init__(self, model: Model, n_ctx: int) -> None:
        self._model = model
        self.n_ctx = n_ctx
        self._made: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def foresee(self, params: SamplingParams) -> None:
        """Makes what ``clone`` will be asked for; may be called in any thread."""
        key = self._key(params)
        with self._lock:
            wanted = self._used(params) and key not in self._made
        if wanted:
            # ctypes lets the engine's loop go on meanwhile.
            made = self._make(params)
            with self._lock:
                self._keep(key, made)

    def clone(self, params: SamplingParams) -> Any:
        """A ``llama_sampler`` of the caller's own; None where the parameters switch it off."""
        if not self._used(params):
            return None
        key = self._key(params)
        with self._lock:
            if key not in self._made:
                self._keep(key, self._make(params))
            self._made.move_to_end(key)
            return llama_cpp.llama_sampler_clone(self._made[key])

    def window(self, params: SamplingParams) -> int:
        """How many tokens it looks back on."""
        asked = params.dry_penalty_last_n
        return self.n_ctx if asked == -1 else min(asked, self.n_ctx)

    def close(self) -> None:
        """Frees what is kept."""
        with self._lock:
            while self._made:
                llama_cpp.llama_sampler_free(self._made.popitem()[1])

    def _used(self, params: SamplingParams) -> bool:
        named = "dry" in params.samplers and (params.greedy or not params.mirostat)
        return named and params.dry_multiplier > 0 and self.window(params) > 0

    def _key(self, params: SamplingParams) -> tuple[Any, ...]:
        strength = (params.dry_multiplier, params.dry_base, params.dry_allowed_length)
        return (*strength, self.window(params), params.dry_sequence_breakers)

    def _keep(self, key: tuple[Any, ...], made: Any) -> None:
        if key in self._made:
            llama_cpp.llama_sampler_free(self._made.pop(key))
        self._made[key] = made
        if len(self._made) > _KEPT:
            llama_cpp.llama_sampler_free(self._made.popitem(last=False)[1])

    def _make(self, params: SamplingParams) -> Any:
        breakers = [breaker.encode() for breaker in dict.fromkeys(params.dry_sequence_breakers)]
        return llama_cpp.llama_sampler_init_dry(
            self._model.vocab,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            self.window(params),
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )
