"""A chain of llama.cpp's samplers, built once a request."""

from __future__ import annotations

import ctypes
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from server.engine.llama.context import Context
from server.engine.llama.model import Model
from server.errors import RequestError
from server.messages.sampling import SamplingParams

_KEPT = 8


class DrySamplers:
    """Makes DRY samplers: clones of the last ones made, which cost nothing.

    45 ms were measured for the four default breakers and 49,152 tokens, so the engine, which
    knows of a request early, calls ``compile_ahead`` in a thread of its own.
    """

    def __init__(self, model: Model, n_ctx: int) -> None:
        self._model = model
        self.n_ctx = n_ctx
        self._made: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def compile_ahead(self, params: SamplingParams) -> None:
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


_MIROSTAT_M = 100  # the paper's m, llama-server's too (arXiv:2007.14966)


class Sampler:
    """Owns a ``llama_sampler`` chain: biases, then llama-server's samplers in the order asked for.

    Where nothing but the most likely token counts, biases or not, there is no chain at all: to
    find it in the logits takes a tenth of the time that a chain takes to list all candidates.
    """

    def __init__(
        self, params: SamplingParams, model: Model, dry: DrySamplers, prompt: NDArray[np.int32]
    ) -> None:
        """Builds the chain; penalties begin with the tokens of the prompt, int32 [n].

        Raises:
            RequestError: ``logit_bias`` names a token that the vocabulary has not.
        """
        biases = _biases(params, model)
        self._n_vocab = model.n_vocab
        self.handle: Any = None
        self._biased = np.array([token for token, _ in biases], np.int64)
        self._bias = np.array([bias for _, bias in biases], np.float32)
        self._lowered = frozenset(self._biased.tolist())
        self._only_lowers = bool((self._bias <= 0).all())
        if params.greedy and not _changes_greedy(params):
            return
        settings = llama_cpp.llama_sampler_chain_default_params()
        settings.no_perf = True
        self.handle = llama_cpp.llama_sampler_chain_init(settings)
        if biases:
            self._add(_bias_sampler(biases, model.n_vocab))
        if params.mirostat and not params.greedy:
            self._add(llama_cpp.llama_sampler_init_temp(params.temperature))
        else:
            for name in params.samplers:
                self._add_named(name, params, model, dry, prompt)
        self._add(_chooser(params, model.n_vocab))

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self.handle, sampler)

    def _add_named(
        self,
        name: str,
        params: SamplingParams,
        model: Model,
        dry: DrySamplers,
        prompt: NDArray[np.int32],
    ) -> None:
        if name == "penalties":
            asked = params.repeat_last_n
            window = dry.n_ctx if asked == -1 else min(asked, dry.n_ctx)
            sampler = _penalties(params, model.n_vocab, window)
        elif name == "dry":
            window = dry.window(params)
            sampler = dry.clone(params)
        else:
            window = 0
            sampler = _cut(name, params)
        if not sampler:
            return
        for token in prompt[len(prompt) - min(window, len(prompt)) :].tolist():
            llama_cpp.llama_sampler_accept(sampler, token)
        self._add(sampler)

    def sample(self, context: Context, row: int) -> int:
        """The next token from the logits of batch row ``row``; the chain remembers it."""
        if self.handle is None:
            return self._most_likely(context.logits(row, self._n_vocab))
        return int(llama_cpp.llama_sampler_sample(self.handle, context.handle, row))

    def _most_likely(self, logits: NDArray[np.float32]) -> int:
        best = int(logits.argmax())
        # Where biases only lower, one that has none stays the most likely: usually the only look.
        if self._only_lowers and best not in self._lowered:
            return best
        # The logits are llama.cpp's own: they are left as they were.
        plain = logits[self._biased]
        np.add.at(logits, self._biased, self._bias)
        token = int(logits.argmax())
        logits[self._biased] = plain
        return token

    def replay(self, token: int) -> None:
        """Brings the chain to where it was after it had sampled ``token``.

        Applied to that one candidate, the last sampler draws one random number, as it did then.
        What mirostat, XTC and adaptive-p have learned of the other candidates is lost.
        """
        if self.handle is None:
            return
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


def _changes_greedy(params: SamplingParams) -> bool:
    """Whether the most likely token may be another one than the model's."""
    named = set(params.samplers)
    return (
        ("penalties" in named and _penalizes(params))
        or ("dry" in named and params.dry_multiplier > 0)
        or ("typ_p" in named and params.typical_p < 1)
        or ("xtc" in named and params.xtc_probability > 0)
    )


def _penalizes(params: SamplingParams) -> bool:
    strengths = (params.presence_penalty, params.frequency_penalty, params.repeat_penalty - 1)
    return params.repeat_last_n != 0 and any(strengths)


def _penalties(params: SamplingParams, n_vocab: int, window: int) -> Any:
    if not _penalizes(params):
        return None
    return llama_cpp.llama_sampler_init_penalties(
        n_vocab, window, params.repeat_penalty, params.frequency_penalty, params.presence_penalty
    )


def _cut(name: str, params: SamplingParams) -> Any:
    """The sampler of that name, None where it is off or nothing but a chooser (adaptive_p)."""
    make = _CUTS.get(name)
    return make(params) if make else None


_CUTS: dict[str, Callable[[SamplingParams], Any]] = {
    "top_k": lambda p: p.top_k > 0 and llama_cpp.llama_sampler_init_top_k(p.top_k),
    "top_p": lambda p: p.top_p < 1 and llama_cpp.llama_sampler_init_top_p(p.top_p, p.min_keep),
    "min_p": lambda p: p.min_p > 0 and llama_cpp.llama_sampler_init_min_p(p.min_p, p.min_keep),
    "typ_p": lambda p: (
        p.typical_p < 1 and llama_cpp.llama_sampler_init_typical(p.typical_p, p.min_keep)
    ),
    "top_n_sigma": lambda p: (
        p.top_n_sigma > 0 and llama_cpp.llama_sampler_init_top_n_sigma(p.top_n_sigma)
    ),
    "xtc": lambda p: (
        p.xtc_probability > 0
        and llama_cpp.llama_sampler_init_xtc(
            p.xtc_probability, p.xtc_threshold, p.min_keep, _seed(p)
        )
    ),
    "temperature": lambda p: (
        not p.greedy
        and llama_cpp.llama_sampler_init_temp_ext(
            p.temperature, p.dynatemp_range, p.dynatemp_exponent
        )
    ),
}


def _chooser(params: SamplingParams, n_vocab: int) -> Any:
    seed = _seed(params)
    if params.greedy:
        return llama_cpp.llama_sampler_init_greedy()
    if params.mirostat == 1:
        return llama_cpp.llama_sampler_init_mirostat(
            n_vocab, seed, params.mirostat_tau, params.mirostat_eta, _MIROSTAT_M
        )
    if params.mirostat == 2:
        return llama_cpp.llama_sampler_init_mirostat_v2(
            seed, params.mirostat_tau, params.mirostat_eta
        )
    if "adaptive_p" in params.samplers:
        return llama_cpp.llama_sampler_init_adaptive_p(
            params.adaptive_target, params.adaptive_decay, seed
        )
    return llama_cpp.llama_sampler_init_dist(seed)


def _seed(params: SamplingParams) -> int:
    # The highest seed means "a random one" to llama.cpp, too; ours are drawn here.
    return secrets.randbits(32) if params.seed is None else params.seed & 0xFFFFFFFF


def _biases(params: SamplingParams, model: Model) -> list[tuple[int, float]]:
    biases = []
    for token, bias in params.logit_bias:
        if isinstance(token, str):
            ids: Sequence[int] = model.tokenize(token, add_special=False, parse_special=False)
        else:
            ids = (token,)
        if any(one >= model.n_vocab for one in ids):
            raise RequestError(
                f"logit_bias: the model's vocabulary has {model.n_vocab} tokens, none of them"
                f" {token}",
                param="logit_bias",
                code="invalid_value",
            )
        biases += [(one, bias) for one in ids]
    if params.ignore_eos:
        biases += [(token, -math.inf) for token in model.end_tokens]
    return biases + [(token, -math.inf) for token in model.suppressed_tokens]


def _bias_sampler(biases: Sequence[tuple[int, float]], n_vocab: int) -> Any:
    array = (llama_cpp.llama_logit_bias * len(biases))()
    for entry, (token, bias) in zip(array, biases, strict=True):
        entry.token, entry.bias = token, bias
    return llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), array)
