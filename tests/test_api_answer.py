"""An answer closes the engine's outputs however it ends, whatever kind of iterator they are."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeEngine

from server.api.generate.answer import Answer
from server.api.generate.choices import Choices
from server.api.openai.chat import ChatReply, _whole
from server.errors import EngineError
from server.messages import Admitted, FinishReason, RequestTimings, TokenOutput
from server.metrics import Metrics


class Outputs:
    """Outputs that notice nothing but ``aclose``; after ``items`` they wait for ever."""

    def __init__(self, *items: Admitted | TokenOutput) -> None:
        self.items = list(items)
        self.closed = False

    def __aiter__(self) -> Outputs:
        return self

    async def __anext__(self) -> Admitted | TokenOutput:
        if not self.items:
            await asyncio.sleep(60)
        return self.items.pop(0)

    async def aclose(self) -> None:
        self.closed = True


def answer_of(outputs: Outputs) -> Answer:
    return Answer(outputs, Metrics(FakeEngine()), arrival=0.0)


def test_cancelled_while_waiting_for_admission() -> None:
    outputs = Outputs()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(answer_of(outputs).admit(), 0.01))
    assert outputs.closed


def test_first_output_must_be_the_admission() -> None:
    outputs = Outputs(TokenOutput("id", "text", 1))
    with pytest.raises(EngineError, match="without admitting"):
        asyncio.run(answer_of(outputs).admit())
    assert outputs.closed


def test_cancelled_while_tokens_come() -> None:
    outputs = Outputs(Admitted("id", 1, 0), TokenOutput("id", "text", 1))

    async def go() -> None:
        running = answer_of(outputs)
        await running.admit()
        assert not outputs.closed
        await _whole(ChatReply("id", "model"), Choices([running]), False)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(go(), 0.05))
    assert outputs.closed


def test_the_gap_between_tokens_is_the_engines_however_late_they_are_read() -> None:
    last = TokenOutput("id", "two", 2, FinishReason.STOP, gap=0.25)
    metrics = Metrics(FakeEngine())
    outputs = Outputs(Admitted("id", 1, 0), TokenOutput("id", "one", 1), last)

    async def go() -> None:
        begun = Answer(outputs, metrics, arrival=0.0)
        await begun.admit()
        async for _ in begun:
            await asyncio.sleep(0.01)

    asyncio.run(go())
    page = metrics.render().decode()
    assert 'llava_inter_token_latency_seconds_sum{model_name=""} 0.25\n' in page


def test_an_answer_that_is_cut_off_has_decoded_until_then() -> None:
    times = RequestTimings(queued=1.0, started=2.0, first_token=5.0)
    first = TokenOutput("id", "one", 1, timings=times)
    outputs = Outputs(Admitted("id", 1, 0), first, TokenOutput("id", "two", 2, gap=0.25))

    async def go() -> Answer:
        begun = answer_of(outputs)
        await begun.admit()
        both = aiter(begun)
        await anext(both)
        await anext(both)
        await begun.aclose()
        return begun

    cut = asyncio.run(go())
    assert cut.timings == times
    assert cut.timings_so_far is not None
    assert (cut.timings_so_far.prefill_seconds, cut.timings_so_far.decode_seconds) == (3.0, 0.25)
