"""The judge and the mutations of the hardening scripts, and a handful of their shots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from scripts.fuzz_decoders import Findings, arguments, attack, pictures
from scripts.hardening.decoder_cost import Cost, MeasuredPool
from scripts.hardening.health import Health
from scripts.hardening.hostile import HOSTILE
from scripts.hardening.mutations import damaged_pictures
from scripts.hardening.pillow_pixels import compare
from scripts.hardening.shots import Answer, Shot, chat_shot, form_shot
from scripts.hardening.tally import Tally
from scripts.hardening.whole import whole_pictures
from scripts.resolution_curve import BEGIN, END, Row, drawing, put
from server.decoders.work import DecoderLimits

WHOLE = whole_pictures()
FAIR = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "x"}}


def answer(status: int, value: object, *, stream: bool = False) -> Answer:
    return Answer(status, json.dumps(value).encode(), stream)


@pytest.mark.parametrize(
    ("given", "flawed"),
    [
        (answer(200, {"choices": []}), False),
        (answer(400, FAIR), False),
        (answer(500, FAIR), True),
        (answer(400, {"detail": "no"}), True),
        (answer(400, {"error": {**FAIR["error"], "message": ""}}), True),
        (answer(400, {"error": {**FAIR["error"], "param": 3}}), True),
        (answer(200, []), True),
        (Answer(0, b"ReadTimeout"), True),
        (Answer(200, b'data: {"choices": []}\n\ndata: [DONE]\n', True), False),
        (Answer(200, b'data: {"error": {"type": "server_error"}}\n', True), True),
    ],
)
def test_what_is_a_fair_answer(given: Answer, flawed: bool) -> None:
    assert (given.flaw() is not None) is flawed


def test_a_wrong_answer_is_kept_with_its_request(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    shot = Shot("png/1/2", "png", "/v1/chat/completions", b"what was sent")
    tally.take(shot, answer(500, FAIR))
    tally.take(shot, answer(400, FAIR))
    assert tally.total == {500: 1, 400: 1}
    assert (tmp_path / "png_1_2.body").read_bytes() == b"what was sent"
    assert json.loads((tmp_path / "png_1_2.json").read_text())["flaw"] == "status 500"


def test_the_same_seed_makes_the_same_files() -> None:
    def files(seed: int) -> Iterator[tuple[str, bytes]]:
        return damaged_pictures(WHOLE, 2 * len(WHOLE), seed)

    assert list(files(1)) == list(files(1))
    assert list(files(1)) != list(files(2))
    changed = [data not in WHOLE.values() for _, data in files(1)]
    assert sum(changed) > 0.9 * len(changed)


def test_health_is_judged_beside_a_server_that_does_nothing() -> None:
    health = Health("http://127.0.0.1:9")
    health.seconds, health.bare = [0.01] * 98 + [0.15] * 2, [0.001] * 100
    assert health.flaw() == "/health took 0.150 s (p99), a bare server 0.001 s"
    health.bare[-2:] = [0.06] * 2  # the machine is busy
    assert health.flaw() is None


def test_the_fuzzer_of_decoders_reaches_every_codec_and_repeats_itself() -> None:
    names = [name.split("/")[0] for name, _ in islice(pictures(1), 3 * len(WHOLE))]
    assert {*HOSTILE, *WHOLE} <= set(names)
    assert list(islice(pictures(1), 6)) == list(islice(pictures(1), 6))


def test_the_fuzzer_of_decoders_finds_nothing_wrong(tmp_path: Path) -> None:
    options = ["--pictures", "12", "--cpu", "0.5", "--folder", str(tmp_path)]
    findings = Findings(tmp_path)
    asyncio.run(attack(arguments(options), findings))
    assert sum(costs.outcomes.total() for costs in findings.costs.values()) == 12
    assert findings.flaws == []


def test_processor_time_and_memory_of_a_picture_are_the_decoder_s() -> None:
    limits = DecoderLimits(memory_bytes=1024**3, cpu_seconds=0.5, wall_seconds=60)

    async def go() -> list[Cost]:
        pool = MeasuredPool(limits)
        try:
            files = (WHOLE["png"], HOSTILE["jpeg-scans"](1_500_000), HOSTILE["png-deep"](3000))
            return [await pool.cost(data) for data in files]
        finally:
            await pool.stop()

    small, slow, large = asyncio.run(go())
    assert (small.outcome, slow.outcome, large.outcome) == ("decoded", "cpu", "decoded")
    assert small.seconds < 0.1
    assert small.memory < 16 * 1024**2
    assert 0.3 < slow.seconds < 0.75
    assert large.memory > 3000 * 3000 * 3
    assert not any((small.flaw, slow.flaw, large.flaw))


def test_what_exceeds_the_limits_is_a_finding(tmp_path: Path) -> None:
    findings = Findings(tmp_path)
    findings.take("png/1", b"a file", Cost("decoded", 3.0, 10, "3.00 s of processor time"))
    assert findings.flaws == ["png/1: 3.00 s of processor time"]
    assert (tmp_path / "png_1").read_bytes() == b"a file"


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_whole_pictures_equal_pillow_s_own(name: str) -> None:
    assert compare(WHOLE[name]).kind in ("equal", "no fair comparison")


def test_shots_carry_the_picture() -> None:
    picture = WHOLE["png"]
    assert picture in form_shot("a", "png", picture).content
    body = json.loads(chat_shot("a", "png", picture).content)
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:")


def test_the_curve_is_put_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert put(page, f"{BEGIN}\nnew\n{END}") == f"before\n{BEGIN}\nnew\n{END}\nafter"
    with pytest.raises(SystemExit):
        put("no marks", "new")
    rows = [Row(112, detail, 64, 0.9, 0.8, 11.0, 30.0, 100) for detail in ("high", "low")]
    assert drawing(rows).count("<polyline") == 4
