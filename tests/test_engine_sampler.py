"""The sampler chains, on the demo model's real logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import DEMO

from server.engine.llama.context import Batch, Context
from server.engine.llama.model import Model
from server.engine.llama.sampler import DrySamplers, Sampler
from server.errors import RequestError
from server.messages.sampling import SAMPLERS, SamplingParams

N_CTX = 256
GREEDY = SamplingParams(temperature=0.0)


class Bench:
    """The demo model with one prompt computed: what follows is sampled from its logits."""

    def __init__(self) -> None:
        (path,) = [p for p in DEMO.glob("*.gguf") if "mmproj" not in p.name]
        self.model = Model(path, 0)
        self.context = Context(
            self.model, n_ctx=N_CTX, n_seq_max=1, n_batch=64, n_ubatch=64, threads=1
        )
        self.prompt = np.array(self.model.tokenize("What is in the", add_special=True), np.int32)
        self.dry = DrySamplers(self.model, N_CTX)
        batch = Batch(64)
        self.row = batch.add(self.prompt, 0, 0, want_last=True)
        assert self.context.decode(batch)
        self.logits = self.context.logits(self.row, self.model.n_vocab).copy()

    def sampler(self, params: SamplingParams) -> Sampler:
        return Sampler(params, self.model, self.dry, self.prompt)

    def draw(self, params: SamplingParams, times: int = 1) -> list[int]:
        """Tokens drawn one after another from the same logits."""
        sampler = self.sampler(params)
        try:
            return [sampler.sample(self.context, self.row) for _ in range(times)]
        finally:
            sampler.close()

    def ranks(self, params: SamplingParams, times: int = 300) -> set[int]:
        """Which ranks of the logits were drawn."""
        order = np.argsort(-self.logits, kind="stable").tolist()
        return {order.index(token) for token in self.draw(replace(params, seed=1), times)}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.dry.close()
    bench.context.close()
    bench.model.close()


FLAT = SamplingParams(temperature=2.0)


def test_greedy_needs_no_chain_and_takes_the_highest_logit(bench: Bench) -> None:
    best = int(bench.logits.argmax())
    sampler = bench.sampler(replace(GREEDY, top_p=0.1, top_k=3, min_p=0.5))
    assert sampler.handle is None
    assert sampler.sample(bench.context, bench.row) == best
    # A chain that changes nothing comes to the same.
    assert bench.draw(replace(GREEDY, logit_bias=((best, 1.0),))) == [best]
    assert bench.draw(SamplingParams(top_k=1, seed=3), 5) == [best] * 5


def test_seeds_make_draws_repeatable(bench: Bench) -> None:
    one = bench.draw(replace(FLAT, seed=7), 20)
    assert one == bench.draw(replace(FLAT, seed=7), 20)
    assert one != bench.draw(replace(FLAT, seed=8), 20)
    assert bench.draw(FLAT, 20) != bench.draw(FLAT, 20)


@pytest.mark.parametrize(
    ("params", "most"),
    [
        (replace(FLAT, top_k=3), 3),
        (replace(FLAT, top_p=1e-6), 1),
        (replace(FLAT, min_p=1.0), 1),
        (replace(FLAT, top_n_sigma=1e-6), 1),
        (replace(FLAT, typical_p=1e-6), 1),
        (replace(FLAT, top_p=1e-6, min_keep=4), 4),
        (replace(FLAT, mirostat=1, mirostat_tau=0.0), 1),
        (replace(FLAT, mirostat=2, mirostat_tau=0.0), 1),
    ],
)
def test_cuts_leave_so_many_tokens(bench: Bench, params: SamplingParams, most: int) -> None:
    assert len(bench.ranks(FLAT)) > 10
    assert len(bench.ranks(params)) == most


def test_xtc_takes_the_top_choices_away(bench: Bench) -> None:
    sure = replace(FLAT, xtc_probability=1.0, xtc_threshold=0.0)
    assert 0 in bench.ranks(FLAT)
    assert 0 not in bench.ranks(sure)


def test_samplers_are_applied_in_the_order_asked_for(bench: Bench) -> None:
    hot = SamplingParams(temperature=2.0, min_p=0.5)
    first = bench.ranks(replace(hot, samplers=("temperature", "min_p")))
    last = bench.ranks(replace(hot, samplers=("min_p", "temperature")))
    assert len(first) > len(last), "a flatter distribution keeps more tokens"
    without = bench.ranks(replace(hot, samplers=("top_k",)))
    assert len(without) > len(first), "what is not named is not applied"
    assert bench.draw(replace(hot, samplers=("adaptive_p",), adaptive_target=0.5, seed=1), 3)


def test_dynamic_temperature_moves_with_the_entropy(bench: Bench) -> None:
    cold = SamplingParams(temperature=0.0, dynatemp_range=2.0)
    assert not cold.greedy
    assert len(bench.ranks(cold)) > 1


def test_biases_ban_and_force(bench: Bench) -> None:
    best, other = np.argsort(-bench.logits, kind="stable")[:2].tolist()
    assert bench.draw(replace(GREEDY, logit_bias=((best, -inf),))) == [other]
    assert bench.draw(replace(GREEDY, logit_bias=((best, -100.0),))) == [other]
    assert bench.draw(replace(FLAT, logit_bias=((7, 100.0),)), 20) == [7] * 20
    text = bench.model.piece(best).decode()
    banned = replace(GREEDY, logit_bias=((text, -inf), (best, -inf)))
    assert bench.draw(banned) != [best]
    with pytest.raises(RequestError) as refused:
        bench.sampler(replace(GREEDY, logit_bias=((bench.model.n_vocab, 1.0),)))
    assert refused.value.param == "logit_bias"


def test_ignore_eos_bans_every_end(bench: Bench) -> None:
    ends = tuple((token, 100.0) for token in bench.model.end_tokens)
    assert bench.draw(replace(GREEDY, logit_bias=ends))[0] in bench.model.end_tokens
    ignored = replace(GREEDY, logit_bias=ends, ignore_eos=True)
    assert bench.draw(ignored)[0] not in bench.model.end_tokens


def test_penalties_know_the_prompt_and_forget_beyond_their_window(bench: Bench) -> None:
    seen = int(bench.prompt[-1])
    level = float(bench.logits.max()) - float(bench.logits[seen])
    lifted = replace(GREEDY, logit_bias=((seen, level + 0.5),))
    assert bench.draw(lifted) == [seen]
    punished = replace(lifted, presence_penalty=1.0)
    assert bench.draw(punished) != [seen]
    assert bench.draw(replace(punished, repeat_last_n=0)) == [seen]
    assert bench.draw(replace(punished, repeat_last_n=-1)) != [seen]
    early = int(bench.prompt[1])
    assert early not in bench.prompt[-1:]
    level = float(bench.logits.max()) - float(bench.logits[early])
    lifted = replace(GREEDY, logit_bias=((early, level + 0.5),), frequency_penalty=1.0)
    assert bench.draw(replace(lifted, repeat_last_n=1)) == [early]
    assert bench.draw(replace(lifted, repeat_last_n=64)) != [early]
    repeated = bench.draw(replace(GREEDY, repeat_penalty=1.5), 10)
    assert max(Counter(repeated).values()) < 10


def test_dry_samplers_are_made_once_and_cloned(bench: Bench) -> None:
    params = replace(GREEDY, dry_multiplier=2.0, dry_base=3.0)
    bench.dry.compile_ahead(params)
    bench.dry.compile_ahead(GREEDY)
    first, again = bench.draw(params, 10), bench.draw(params, 10)
    assert first == again, "a clone begins where the first began"
    for number in range(20):
        bench.draw(replace(params, dry_allowed_length=number))
    assert len(bench.dry._made) <= 8


def test_dry_breaks_a_repetition(bench: Bench) -> None:
    assert len(set(bench.draw(GREEDY, 10))) == 1
    assert len(set(bench.draw(replace(GREEDY, dry_multiplier=5.0, dry_base=4.0), 10))) > 1


numbers = st.floats(0, 1)
hundreds = st.floats(0, 100)
windows = st.integers(-1, 2**31 - 1)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 2),
            "top_p": numbers,
            "top_k": st.integers(0, 2**31 - 1),
            "min_p": numbers,
            "typical_p": numbers,
            "top_n_sigma": st.floats(-1, 100),
            "presence_penalty": st.floats(-2, 2),
            "frequency_penalty": st.floats(-2, 2),
            "repeat_penalty": st.floats(0.01, 100),
            "repeat_last_n": windows,
            "mirostat": st.integers(0, 2),
            "mirostat_tau": hundreds,
            "mirostat_eta": numbers,
            "dry_multiplier": hundreds,
            "dry_base": st.floats(1, 100),
            "dry_allowed_length": st.integers(0, 2**31 - 1),
            "dry_penalty_last_n": windows,
            "dry_sequence_breakers": st.lists(
                st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
                min_size=1,
                max_size=3,
            ).map(tuple),
            "xtc_probability": numbers,
            "xtc_threshold": numbers,
            "dynatemp_range": hundreds,
            "dynatemp_exponent": hundreds,
            "adaptive_target": st.floats(-1, 1),
            "adaptive_decay": st.floats(0, 0.99),
            "min_keep": st.integers(0, 2**31 - 1),
            "samplers": st.lists(
                st.sampled_from([*SAMPLERS, "adaptive_p"]), min_size=1, max_size=16
            ).map(tuple),
            "seed": st.integers(0, 2**32 - 2),
            "logit_bias": st.lists(
                st.tuples(st.integers(0, 500), st.floats(-100, 100) | st.just(-inf)), max_size=5
            ).map(tuple),
            "ignore_eos": st.booleans(),
        },
    )
)
def test_nothing_that_the_api_lets_in_harms_llama_cpp(bench: Bench, fields: dict) -> None:
    for token in bench.draw(SamplingParams(**fields), 5):
        assert 0 <= token < bench.model.n_vocab


def test_banning_all_tokens_is_survived(bench: Bench) -> None:
    everything = tuple((token, -inf) for token in range(bench.model.n_vocab))
    for params in (
        GREEDY,
        FLAT,
        replace(FLAT, mirostat=1),
        replace(FLAT, top_p=0.5, xtc_probability=1.0),
    ):
        assert len(bench.draw(replace(params, logit_bias=everything), 3)) == 3
