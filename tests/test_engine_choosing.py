"""The core on the demo model: what chooses tokens lives through all that happens to them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest
from engine_fakes import drain, text_of
from live import DEMO

from server.engine.core import EngineCore
from server.engine.llama.context import Context
from server.engine.llama.model import Model
from server.engine.request import Picture
from server.engine.runner import LlamaRunner
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.scheduler import Scheduler
from server.engine.scheduling.step import Pace
from server.engine.vision.encoders import ImageCache
from server.grammar import gbnf_grammar, schema_grammar
from server.messages import AbortRequest, AddRequest, FinishReason, Rejected, TokenOutput
from server.messages.sampling import Grammar, GrammarKind, SamplingParams

N_BATCH = 64
# Two letters: among many choices one's last bits, which change with the batch, would decide.
LETTERS = gbnf_grammar("root ::= [ab]{30}", "grammar")


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    (path,) = [p for p in DEMO.glob("*.gguf") if "mmproj" not in p.name]
    model = Model(path, 0)
    yield model
    model.close()


class Engine:
    """A core with so many cells, which steps at once."""

    def __init__(self, model: Model, n_cells: int) -> None:
        self.context = Context(
            model, n_ctx=256, n_seq_max=8, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=1
        )
        self.runner = LlamaRunner(model, self.context, None, n_batch=N_BATCH, n_ubatch=N_BATCH)
        scheduler = Scheduler(KVCache(8, n_cells), N_BATCH, 4, Pace(0.05, 1000.0))
        self.core = EngineCore(self.runner, scheduler, ImageCache(0), _no_pictures)

    def ask(self, *requests: AddRequest) -> dict[str, list[object]]:
        for request in requests:
            self.core.add(request)
        return drain(self.core)

    def say(self, *requests: AddRequest) -> dict[str, str]:
        return {name: text_of(said) for name, said in self.ask(*requests).items()}


def _no_pictures(_pictures: list[Picture]) -> None:
    raise AssertionError


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    engine = Engine(model, 256)
    yield engine
    engine.context.close()


@pytest.fixture
def crowded(model: Model) -> Iterator[Engine]:
    """One whose requests push each other out."""
    engine = Engine(model, 48)
    yield engine
    engine.context.close()


def request(name: str, prompt: str = "What is in the picture?", **fields: object) -> AddRequest:
    return AddRequest(name, (f"{name}: {prompt}",), SamplingParams(**fields), 0.0)  # type: ignore[arg-type]


def test_preempted_requests_go_on_as_if_nothing_had_been(engine: Engine, crowded: Engine) -> None:
    asked = [
        request(f"r{seed}", grammar=LETTERS, seed=seed, temperature=2.0, frequency_penalty=0.5)
        for seed in range(4)
    ]
    alone = {name: text for one in asked for name, text in engine.say(one).items()}
    assert crowded.say(*asked) == alone
    assert crowded.core.scheduler.preemptions > 0
    assert len(set(alone.values())) == 4
    assert all(len(text) == 30 for text in alone.values())


def test_what_was_generated_before_is_not_chosen_again(engine: Engine) -> None:
    one = request("r", grammar=LETTERS, seed=3, temperature=2.0, presence_penalty=0.5)
    outputs = [o for o in engine.ask(one)["r"] if isinstance(o, TokenOutput)]
    text = "".join(o.text for o in outputs)
    begun = tuple(o.token for o in outputs[:7])
    rest = AddRequest(one.request_id, one.parts, one.sampling, 0.0, resumed=begun)
    said = engine.say(rest)["r"]
    assert text == "".join(o.text for o in outputs[:7]) + said


def test_a_grammar_ends_the_request_without_a_word_of_the_model(engine: Engine) -> None:
    yes = gbnf_grammar('root ::= "yes" | "no"', "grammar")
    for fields in ({}, {"ignore_eos": True}, {"max_tokens": 50}, {"temperature": 0.0}):
        said = engine.ask(request("r", grammar=yes, **fields))["r"]
        assert text_of(said) in ("yes", "no")
        assert said[-1].finish_reason.value == "stop"  # type: ignore[attr-defined]


def test_max_tokens_cuts_what_the_grammar_has_not_ended(engine: Engine) -> None:
    said = engine.ask(request("r", grammar=LETTERS, max_tokens=5, seed=1))["r"]
    assert said[-1].finish_reason.value == "length"  # type: ignore[attr-defined]


def test_a_wrong_grammar_is_refused_before_anything_is_said(engine: Engine) -> None:
    wrong = Grammar(GrammarKind.LARK, "start: nothing", "grammar")
    (rejected,) = engine.ask(request("r", grammar=wrong))["r"]
    assert isinstance(rejected, Rejected)
    assert rejected.error.param == "grammar"
    assert rejected.error.status == 400


def test_what_no_token_can_spell_ends_the_request_alone(engine: Engine) -> None:
    # Biases that forbid all that the grammar allows.
    only = gbnf_grammar('root ::= "a"', "grammar")
    banned = tuple((token, float("-inf")) for token in range(3, 900))
    outputs = engine.ask(
        request("stuck", grammar=only, logit_bias=banned), request("other", max_tokens=3, seed=1)
    )
    assert isinstance(outputs["stuck"][-1], Rejected)
    assert outputs["other"][-1].finish_reason is not None  # type: ignore[attr-defined]


def test_samplers_are_freed_with_their_requests(engine: Engine) -> None:
    for number in range(6):
        engine.core.add(request(f"r{number}", grammar=LETTERS, repeat_penalty=1.1))
    for _ in range(3):
        engine.core.step()
    for number in range(6):
        engine.core.abort(AbortRequest(f"r{number}"))
    assert engine.runner._choosers == {}
    assert not engine.core.has_work


def test_answers_to_a_schema_fit_it(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "shapes": {
                "type": "array",
                "items": {"enum": ["circle", "square"]},
                "minItems": 1,
                "maxItems": 3,
            },
            "sure": {"type": "boolean"},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["shapes", "sure", "count"],
        "additionalProperties": False,
    }
    for seed in range(10):
        asked = request("r", grammar=schema_grammar(schema, "json_schema"), seed=seed)
        jsonschema.validate(json.loads(engine.say(asked)["r"]), schema)


def test_log_probabilities_are_those_before_the_sampler(engine: Engine, model: Model) -> None:
    plain = engine.ask(request("r", logprobs=3, temperature=0.0, max_tokens=4, ignore_eos=True))[
        "r"
    ]
    told = [lp for o in plain if isinstance(o, TokenOutput) for lp in o.logprobs]
    assert len(told) == 4
    for logprob in told:
        best = [one for one in logprob.top if one[0] not in model.end_tokens]
        assert best[0] == (logprob.token, logprob.piece, pytest.approx(logprob.logprob))
    biased = SamplingParams(
        logprobs=3, temperature=0.0, max_tokens=1, logit_bias=((told[0].token, -100.0),)
    )
    (other,) = [
        lp
        for o in engine.ask(AddRequest("r", ("r: What is in the picture?",), biased, 0.0))["r"]
        if isinstance(o, TokenOutput)
        for lp in o.logprobs
    ]
    assert other.top[0][:2] == told[0].top[0][:2]
    assert other.top[0][2] == pytest.approx(told[0].top[0][2], abs=1e-3)
    assert other.token == told[0].top[1][0]


def greedy(engine: Engine, *others: AddRequest) -> list[tuple[int, float]]:
    """Tokens and log-probabilities of a question whose prompt was computed before."""
    asked = request(
        "asked", "What colour is the circle?", temperature=0.0, logprobs=0, max_tokens=8
    )
    engine.say(asked)
    outputs = engine.ask(*others, asked)["asked"]
    tokens = [lp for o in outputs if isinstance(o, TokenOutput) for lp in o.logprobs]
    return [(one.token, one.logprob) for one in tokens]


def test_greedy_answers_do_not_change_with_what_else_is_decoded(engine: Engine) -> None:
    alone = greedy(engine)
    assert greedy(engine) == alone, "the same batches give the same bits"
    for count in (1, 3):
        others = [
            request(f"other {n}", "Describe it.", temperature=0.0, max_tokens=30, ignore_eos=True)
            for n in range(count)
        ]
        beside = greedy(engine, *others)
        assert [token for token, _ in beside] == [token for token, _ in alone]
        # The same bits on the processors that we saw; others' kernels may round differently.
        assert [p for _, p in beside] == pytest.approx([p for _, p in alone], abs=0.05)


def limited(model: Model, text: str = "Once upon", **params: object) -> list[TokenOutput]:
    """What the model says under these parameters, greedily."""
    sampling = SamplingParams(**{"max_tokens": 20, "temperature": 0.0, **params})  # type: ignore[arg-type]
    said = Engine(model, 256).ask(AddRequest("a", (text,), sampling, 0.0))["a"]
    return [each for each in said if isinstance(each, TokenOutput)]


def test_before_min_tokens_nothing_ends_an_answer(model: Model) -> None:
    prompt = "<|user|>Hello<|assistant|>"
    plain = limited(model, prompt, max_tokens=60)
    assert plain[-1].finish_reason is FinishReason.STOP
    usual = plain[-1].completion_tokens
    assert usual < 50
    more = limited(model, prompt, max_tokens=60, min_tokens=usual + 5)
    assert more[-1].completion_tokens >= usual + 5
    first = text_of(plain)[:2]
    assert text_of(limited(model, prompt, stop=(first,))) == ""
    later = text_of(limited(model, prompt, stop=(first,), min_tokens=4))
    assert later.startswith(first)


def test_a_stop_token_ends_an_answer_and_is_no_part_of_it(model: Model) -> None:
    prompt = "<|user|>Hello<|assistant|>"
    said = limited(model, prompt, logprobs=0)
    third = [one.token for each in said for one in each.logprobs][2]
    cut = limited(model, prompt, stop_token_ids=(third,))
    assert cut[-1].finish_reason is FinishReason.STOP
    assert cut[-1].completion_tokens == 3
    assert text_of(said).startswith(text_of(cut))
    assert len(text_of(cut)) < len(text_of(said))


def test_a_bad_word_is_never_completed(model: Model) -> None:
    prompt = "<|user|>Hello<|assistant|>"
    usual = text_of(limited(model, prompt))
    word = usual.split()[1]
    assert word not in text_of(limited(model, prompt, bad_words=(word,))).split()
    # Words of several tokens are banned by their last one, behind the others alone.
    two = " ".join(usual.split()[1:3])
    assert two not in text_of(limited(model, prompt, bad_words=(two,)))


def test_only_allowed_tokens_are_chosen(model: Model) -> None:
    allowed = tuple(model.tokenize("ab", add_special=False))
    said = limited(model, allowed_token_ids=allowed, logprobs=0, temperature=1.0)
    assert {one.token for each in said for one in each.logprobs} <= set(allowed)
    grammar = gbnf_grammar('root ::= "z"', "grammar")
    sampling = SamplingParams(allowed_token_ids=allowed, grammar=grammar)
    (failed,) = Engine(model, 256).ask(AddRequest("a", ("x",), sampling, 0.0))["a"][-1:]
    assert isinstance(failed, Rejected)
    assert "allowed_token_ids" in failed.error.message


@pytest.mark.parametrize("name", ["allowed_token_ids", "stop_token_ids"])
def test_an_id_that_the_model_has_not_is_refused(model: Model, name: str) -> None:
    sampling = SamplingParams(**{name: (model.n_vocab,)})  # type: ignore[arg-type]
    (failed,) = Engine(model, 256).ask(AddRequest("a", ("x",), sampling, 0.0))["a"][-1:]
    assert isinstance(failed, Rejected)
    assert failed.error.param == name
