"""The benchmark's pure parts, and its client against a server that is not one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from scripts.bench.__main__ import parser
from scripts.bench.client import BenchError, ChatClient, Reply
from scripts.bench.figures import FIGURES, OURS, REFERENCE, percentile, ratios, summary
from scripts.bench.machine import warning
from scripts.bench.own_time import EngineTime, parse
from scripts.bench.pictures import Album, data_url
from scripts.bench.prompts import TOPICS, story
from scripts.bench.report import Report
from scripts.bench.scenarios import SCENARIOS, Course, warm_up
from scripts.synthetic.files import q4_k_m, write_llm
from scripts.synthetic.requantize import requantize
from scripts.synthetic.shapes import PRESETS


def reply(**values: Any) -> Reply:
    return Reply(**{"began": 10.0, "wanted": 4, **values})


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.96), (1.0, 5.0), (0.25, 2.0)]
)
def test_percentile_lies_between_neighbours(share: float, expected: float) -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == pytest.approx(expected)


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_reply_knows_its_times() -> None:
    seen = reply(times=[10.5, 10.6, 10.8], ended=11.0, counted=3)
    assert seen.first == pytest.approx(0.5)
    assert seen.gaps == pytest.approx([0.1, 0.2])
    assert seen.rate == pytest.approx(2 / 0.3)


def test_a_reply_without_text_counts_to_its_end() -> None:
    assert reply(ended=11.0).first == pytest.approx(1.0)
    assert reply(ended=11.0).rate == 0


def test_tokens_are_counted_where_the_server_does_not_tell() -> None:
    assert reply(times=[10.5, 10.6]).tokens == 2
    assert reply(times=[10.5, 10.6], counted=5).tokens == 5


def test_ratios_are_to_llama_server() -> None:
    medians = summary({OURS: {"a": [1.0, 3.0, 2.0]}, REFERENCE: {"a": [4.0, 4.0]}})
    assert medians == {OURS: {"a": 2.0}, REFERENCE: {"a": 4.0}}
    assert ratios(medians) == {OURS: {"a": 0.5}}
    assert ratios({OURS: {"a": 2.0}}) == {OURS: {}}


def test_requirements_point_the_right_way() -> None:
    rate, gap = FIGURES["one_stream.rate"], FIGURES["streams.p99"]
    assert (rate.fulfilled(1.0), rate.fulfilled(0.99), rate.requirement) == (True, False, ">= 1.00")
    assert (gap.fulfilled(0.1), gap.fulfilled(0.11), gap.requirement) == (True, False, "<= 0.10")
    assert FIGURES["streams.p50"].fulfilled(9.0) is None


def test_every_scenario_has_figures_and_every_figure_a_scenario() -> None:
    assert {figure.scenario for figure in FIGURES.values()} == set(SCENARIOS)


def test_the_table_tells_what_was_missed_and_who_stopped_early() -> None:
    report = Report([OURS, REFERENCE], {})
    for server, value in ((OURS, 0.9), (REFERENCE, 1.0)):
        report.add(server, "new_picture", {"new_picture.first": value}, [reply(finish="length")])
        report.add(server, "one_stream", {"one_stream.rate": value}, [reply(finish="stop")])
    report.engine["sixteen_clients"] = [EngineTime(1.0, 0.9), EngineTime(1.0, 0.92)]
    first, rule, picture, stream, *rest = report.table().splitlines()
    assert len({len(line) for line in (first, rule, picture, stream)}) == 1
    assert picture.split("|")[2:7] == [
        "  0.9 ",
        "            1 ",
        "  0.90 ",
        "  <= 1.00 ",
        "     ok ",
    ]
    assert "MISSED" in stream
    notes = "\n".join(rest)
    assert "sixteen_clients 9.0%" in notes
    assert "<= 5% MISSED" in notes
    assert "Lengths in one_stream" in notes
    assert "Lengths in new_picture" not in notes
    assert json.loads(json.dumps(report.as_json()))["ratios"][OURS]["one_stream.rate"] == 0.9


def test_a_figure_that_was_measured_badly_is_not_judged() -> None:
    """A whole reply in one burst has no gaps to speak of, however slow its server was."""
    burst = reply(times=[10.5 + 0.00001 * number for number in range(40)], finish="length")
    report = Report([OURS, REFERENCE], {})
    for server, replies in ((OURS, [burst]), (REFERENCE, [reply(times=[10.5, 10.6])])):
        report.add(server, "streams", {"streams.p99": 1.0, "streams.first": 1.0}, replies)
    table = report.table()
    gap, first = (line for line in table.splitlines() if "<=" in line)
    assert "UNSURE" in gap
    assert "ok" in first
    assert "came in bunches in streams: ours 100%, llama-server 0%" in table
    report.machine["warning"] = "busy"
    assert " ok " not in report.table()


@pytest.mark.parametrize(("bursts", "verdict"), [(30, "ok"), (5, "UNSURE")])
def test_a_rate_may_be_told_of_bursts_if_they_are_many(bursts: int, verdict: str) -> None:
    times = [10.5 + 0.02 * burst + 0.00001 * piece for burst in range(bursts) for piece in range(9)]
    report = Report([OURS, REFERENCE], {})
    for server in (OURS, REFERENCE):
        report.add(server, "one_stream", {"one_stream.rate": 1.0}, [reply(times=times)])
    (line,) = (line for line in report.table().splitlines() if ">=" in line)
    assert verdict in line


def test_the_engines_own_time_comes_from_the_metrics_page() -> None:
    page = (
        '# HELP x\nllava_engine_busy_seconds_total{model_name="a b"} 4.0\n'
        'llava_engine_llama_seconds_total{model_name="a b"} 3.5\n'
    )
    assert parse(page).since(EngineTime(2.0, 1.6)).own_share == pytest.approx(0.05)
    page += 'llava_engine_encode_seconds_total{model_name="a b"} 5.5\n'
    assert parse(page, 10.0).since(EngineTime(wall=0.0)).raw_share == pytest.approx(0.9)
    assert EngineTime().raw_share is None
    assert parse("").own_share is None


def test_pictures_are_new_each_time_and_the_same_each_run() -> None:
    album = Album(0)
    seen = [album.new() for _ in range(4)]
    assert len(set(seen)) == 4
    assert seen[1].startswith("data:image/jpeg;base64,")
    assert seen[2].startswith("data:image/png;base64,")
    assert seen[0] == data_url(1)


def test_stories_do_not_repeat() -> None:
    assert len({json.dumps(story(number)) for number in range(len(TOPICS) * 4)}) == len(TOPICS) * 4


def test_a_busy_machine_is_told_of() -> None:
    assert warning(0.05) is None
    assert "busy (60%" in str(warning(0.6))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--servers", "ollama"])
    assert parser().parse_args(["--scenarios", "streams, one_stream"]).scenarios == [
        "streams",
        "one_stream",
    ]


class FakeServer:
    """Answers as many tokens as allowed, with pauses, in OpenAI's stream."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "fake"}]})
        body = json.loads(request.content)
        if body["messages"][-1]["content"] == "fail":
            return httpx.Response(400, json={"error": {"message": "no"}})
        self.bodies.append(body)
        return httpx.Response(200, content=self._stream(body["max_tokens"]))

    async def _stream(self, tokens: int) -> Any:
        def event(delta: dict[str, str], finish: str | None = None) -> bytes:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            return f"data: {json.dumps({'choices': choices})}\n\n".encode()

        yield b": a comment\n\n" + event({"role": "assistant", "content": ""})
        for _ in range(tokens):
            await asyncio.sleep(0.001)
            yield event({"content": "é "})
        yield event({}, "length")
        usage = {"choices": [], "usage": {"completion_tokens": tokens}}
        yield f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode()


async def fake_client() -> tuple[ChatClient, FakeServer]:
    fake = FakeServer()
    client = ChatClient("http://fake", httpx.MockTransport(fake))
    await client.open()
    return client, fake


def test_the_client_reads_a_stream() -> None:
    async def ask() -> Reply:
        client, _ = await fake_client()
        seen = await client.ask([{"role": "user", "content": "hello"}], 5)
        await client.close()
        return seen

    seen = asyncio.run(ask())
    assert (seen.text, seen.finish, seen.tokens) == ("é " * 5, "length", 5)
    assert len(seen.gaps) == 4
    assert 0 < seen.first < seen.ended - seen.began


def test_the_client_tells_of_a_refusal() -> None:
    async def ask() -> None:
        client, _ = await fake_client()
        try:
            await client.ask([{"role": "user", "content": "fail"}], 5)
        finally:
            await client.close()

    with pytest.raises(BenchError, match="status 400"):
        asyncio.run(ask())
    with pytest.raises(BenchError, match="out of cells"):
        reply().take({"error": "out of cells"}, 0.0)


class SmallAlbum(Album):
    """Words in the place of pictures, which take their time to draw."""

    def new(self) -> str:
        self._seed += 1
        return f"data:,{self._seed}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_gives_its_figures(name: str) -> None:
    async def play() -> tuple[dict[str, float], FakeServer]:
        client, fake = await fake_client()
        course = Course(client, SmallAlbum(0), tokens=4, stream_tokens=8, quick=True)
        course.ready_after = 1.0
        await warm_up(course)
        fake.bodies.clear()
        values = await SCENARIOS[name](course)
        await client.close()
        return values, fake

    values, fake = asyncio.run(play())
    assert set(values) == {key for key, figure in FIGURES.items() if figure.scenario == name}
    assert all(value > 0 for key, value in values.items() if key != "streams.still")
    assert fake.bodies
    greedy = 0.7 if name == "sampled_stream" else 0
    assert all(body["temperature"] == greedy and body["stream"] for body in fake.bodies)


def test_another_type_keeps_all_but_the_matrices(tmp_path: Path) -> None:
    source, target = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write_llm(source, "a", PRESETS["tiny"].llm, GGMLQuantizationType.Q4_0, 0)
    requantize(source, target, GGMLQuantizationType.Q8_0)
    before, after = GGUFReader(source), GGUFReader(target)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        numbers, others = (dequantize(t.data, t.tensor_type) for t in (old, new))
        assert np.abs(numbers - others).max() <= np.abs(numbers).max() / 127
    assert {t.tensor_type.name for t in after.tensors} == {"F32", "Q8_0"}
    keys = set(before.fields) - {"GGUF.tensor_count"}
    assert all(after.fields[key].contents() == before.fields[key].contents() for key in keys)


def test_the_mix_is_q4_k_m_s() -> None:
    """Of TinyLlama's 22 layers llama.cpp's own gives these six bits (llama-quant.cpp)."""
    mix = q4_k_m(22)
    wide = [n for n in range(22) if mix(f"blk.{n}.ffn_down.weight")]
    assert wide == [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]
    assert mix("output.weight") == GGMLQuantizationType.Q6_K
    assert mix("blk.0.attn_q.weight") is None
