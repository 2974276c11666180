"""``llava-server plan``: everyday sums, headers by ranges from a hub, words and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import huggingface_hub.utils._http as hub_http
import pytest
from huggingface_hub import constants

from scripts.synthetic.files import write_pair
from scripts.synthetic.shapes import PRESETS, LlmShape
from scripts.synthetic.tiny import write_tiny
from scripts.synthetic.weights import QUANTS
from server.cli import models
from server.cli.main import main
from server.cli.plan.command import add_arguments
from server.gguf.file import read_shipped_header
from server.hub import catalogue
from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.plan import plan_memory
from server.memory.fit.planner import Headers, fit_model
from server.messages import DeviceMemory, EngineConfig
from server.settings.parser import Parser
from tests.headers import header_of, model_of, tower_of
from tests.stand_in_hub import StandInHub, serving

GB, GIB = 10**9, 1 << 30
RAM = PlanDevice("CPU", "cpu", 1 << 45, 1 << 45)
CARD = PlanSettings((PlanDevice("GPU0", "gpu", 24 * GIB, 24 * GIB), RAM), ctx_size=4096)
LLAMA_2_7B = LlmShape(4096, 32, 32, 32, 11008, 32000, 4096)
LLAMA_3_8B = LlmShape(4096, 32, 32, 8, 14336, 128256, 8192)
LLAMA_3_70B = LlmShape(8192, 80, 64, 8, 28672, 128256, 8192)


@pytest.mark.parametrize(
    ("shape", "quant", "least", "most"),
    [
        (LLAMA_2_7B, "f16", 13.3, 14.2),
        (LLAMA_2_7B, "q4_0", 3.5, 4.0),
        (LLAMA_2_7B, "q4_k", 3.5, 4.0),
        (LLAMA_3_8B, "f16", 15.8, 16.3),
        (LLAMA_3_70B, "q4_k", 38.0, 41.0),
    ],
)
def test_the_operators_everyday_sums(
    shape: LlmShape, quant: str, least: float, most: float
) -> None:
    plan = plan_memory(header_of(shape, quant), None, CARD)
    assert least < plan.of("weights") / GB < most


def test_llava_1_6_on_a_24_gb_card() -> None:
    """Q4 with CLIP ViT-L/14-336: all on the card, and room for all of its context."""
    model, tower = model_of("llava-1.6-mistral-7b", "q4_k"), tower_of("llava-1.6-mistral-7b")
    plan = plan_memory(model, tower, replace(CARD, ctx_size=32768))
    assert plan.layers_offloaded == 33
    assert plan.on("GPU0") <= 24 * GIB - (512 << 20)
    # 32 layers, 8 key heads of 128, keys and values of 2 bytes
    assert plan.of("kv_cache") == 32768 * 32 * 2 * 8 * 128 * 2
    assert 0.6 < plan.of("vision_encoder") / GB < 0.63


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model in two quantisations and its tower, shared by the tests."""
    folder = tmp_path_factory.mktemp("pairs")
    shape = replace(PRESETS["tiny"], llm=replace(PRESETS["tiny"].llm, width=256, layers=8))
    shape = replace(shape, llm=replace(shape.llm, vocabulary=32000, feed_forward=4096))
    shape = replace(shape, tower=replace(shape.tower, n_out=256))
    for quant in ("q4_0", "f16"):
        write_pair(folder, quant, shape, quant=QUANTS[quant], empty=True)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pairs: Path) -> Iterator[StandInHub]:
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_http.time, "sleep", lambda _seconds: None)
        monkeypatch.setattr(hub_http, "_GLOBAL_CLIENT", None)
        for quant in ("q4_0", "f16"):
            server.files[f"us/tiny/tiny-{quant}.gguf"] = (pairs / f"{quant}.gguf").read_bytes()
        server.files["us/tiny/mmproj-f16.gguf"] = (pairs / "mmproj-f16.gguf").read_bytes()
        yield server
        huggingface_hub.close_session()


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """The plan as JSON, made for a card of 24 GiB."""
    code = main(["plan", *arguments, "--device-memory", "24GiB", "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found: dict[str, object] = json.loads(printed.out)
    return found


def test_a_file_of_the_hub_is_planned_from_its_header(
    hub: StandInHub, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(capsys, "hf:us/tiny:q4_0")
    model = found["model"]
    assert isinstance(model, dict)
    size = len(hub.files["us/tiny/tiny-q4_0.gguf"])
    assert model["layers"] == 8
    assert 0 < model["fetched"] < 1_500_000 < size
    assert model["vision"] is True
    assert all(span is not None for span in hub.ranges()), "never a whole file"
    listed = found["quantizations"]
    assert isinstance(listed, list)
    assert [one["file"] for one in listed] == ["tiny-q4_0.gguf", "tiny-f16.gguf"]
    assert [one["chosen"] for one in listed] == [True, False]
    assert listed[1]["bytes"] == len(hub.files["us/tiny/tiny-f16.gguf"])
    assert listed[1]["layers"] == 9


def test_split_files_are_planned_as_one(
    hub: StandInHub, capsys: pytest.CaptureFixture[str], pairs: Path
) -> None:
    from tests.split import split

    whole = pairs / "q4_0.gguf"
    for name, content in split(whole, 3).items():
        hub.files[f"us/parts/{name}"] = content
    one, parts = ask(capsys, str(whole), "--no-mmproj"), ask(capsys, "hf:us/parts:q4_0")
    assert one["parts"] == [
        part
        for part in parts["parts"]
        if not part["part"].startswith("vision")  # type: ignore[attr-defined]
    ]
    model = parts["model"]
    assert isinstance(model, dict)
    assert model["fetched"] > 0


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda hub: setattr(hub, "no_ranges", True), "does not serve parts of files"),
        (lambda hub: setattr(hub, "gated", "us/tiny"), "is gated"),
        (
            lambda hub: hub.files.update({"us/tiny/tiny-q4_0.gguf": b"GGUF" + b"\xff" * 5000}),
            "cannot be used",
        ),
        (
            lambda hub: hub.files.update(
                {"us/tiny/tiny-q4_0.gguf": hub.files["us/tiny/tiny-q4_0.gguf"][:400000]}
            ),
            "cannot be used",
        ),
    ],
    ids=["whole files only", "gated", "garbage", "cut"],
)
def test_a_hub_that_does_not_behave(
    hub: StandInHub, capsys: pytest.CaptureFixture[str], break_it: object, words: str
) -> None:
    assert callable(break_it)
    break_it(hub)
    assert main(["plan", "hf:us/tiny:q4_0", "--device-memory", "24GiB"]) == 1
    assert words in capsys.readouterr().err


def test_offline_says_what_is_missing(hub: StandInHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "hf:us/tiny:q4_0", "--ram", "16GiB", "--offline"]) == 1
    assert "offline" in capsys.readouterr().err
    assert not hub.requests


def test_the_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", "demo", "--device-memory", "1GiB", "--ram", "4GiB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    for words in ("weights", "KV cache", "vision tower", "It fits.", "112", "6 of 6 layers"):
        assert words in text
    assert "\x1b" not in text


def test_what_does_not_fit_says_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", "--ram", "100MiB"]) == 3
    text = capsys.readouterr().out
    assert "The model does not fit, even with a KV cache in q8_0: CPU would need" in text
    flags = ["--device-memory", "16MiB", "--n-gpu-layers", "all", "--ctx-size", "8192"]
    assert main(["plan", "demo", *flags]) == 3
    assert "GPU0 would need" in capsys.readouterr().out


def test_what_is_left_on_auto_is_what_the_server_would_choose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "demo", "--device-memory", "24MiB", "--ram", "1GiB"]) == 0
    text = capsys.readouterr().out
    assert "Left on auto:" in text
    assert "would lack" in text
    assert main(["plan", "demo", "--device-memory", "1GiB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["n_gpu_layers"] == found["layers"] == 6
    assert {one["setting"] for one in found["decisions"]} >= {"--ctx-size", "--n-gpu-layers"}
    assert found["refusal"] == ""


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert devices[-1]["kind"] == "cpu"
    assert devices[-1]["total"] >= devices[-1]["free"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--device-memory", "24 apples"], "is no size"),
        (["demo", "--ctx-size", "-5"], "--ctx-size: should be greater than or equal to 0"),
        (["demo", "--flash-attn", "off", "--cache-type-v", "q8_0"], "need flash attention"),
        (["demo", "--tensor-split", "a,b"], "--tensor-split: must be numbers such as 3,1"),
        (["demo", "--imagesize", "3"], "did you mean --image-size?"),
        (["nothing-like-this.gguf"], "neither a file nor a known model"),
        (["hf:one"], "must read hf:OWNER/REPOSITORY"),
        (["demo", "--mmproj", "nowhere.gguf"], "cannot read"),
        (["demo", "--device-memory", "8"], "8 bytes; did you mean 8GiB?"),
        (["demo", "--image-min-tokens", "4"], "this tower sees every picture as one square"),
        (["demo", "--ram", "8GiB", "-ngl", "all"], "there is no GPU that this llama.cpp can use"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) in {1, 2}
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--mmproj-offload"],
        ["--no-mmproj-offload"],
        ["-fa", "true"],
        ["--n-gpu-layers=-1"],
        ["--parallel=-1"],
        ["-ctk", "Q8_0"],
        ["--cache-ram=-1"],
        ["--mtmd-batch-max-tokens", "0"],
        ["--fit", "off"],
    ],
    ids=" ".join,
)
def test_plan_takes_the_spellings_of_serve(flags: list[str]) -> None:
    assert main(["plan", "demo", "--device-memory", "1GiB", "--ram", "8GiB", *flags]) == 0


def test_bounds_of_tokens_are_planned_where_a_tower_heeds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mmproj = write_tiny(tmp_path, "qwen2vl")
    sizes = []
    for flags in (
        [],
        ["--image-min-tokens", "4"],
        ["--image-max-tokens", "64"],
        ["--image-max-edge", "224"],
    ):
        found = ask(capsys, str(model), "--mmproj", str(mmproj), *flags)
        parts = found["parts"]
        assert isinstance(parts, list)
        # The device that computes has most of it, the processor the graph's input.
        sizes.append(max(part["bytes"] for part in parts if part["part"] == "vision_compute"))
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]


def test_pictures_that_are_encoded_together_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mmproj = write_tiny(tmp_path, "internvl")
    sizes = []
    for flags in (["--mmproj-offload", "cpu"], [], ["--mtmd-batch-max-tokens", "2048"]):
        found = ask(capsys, str(model), "--mmproj", str(mmproj), *flags)
        parts = found["parts"]
        assert isinstance(parts, list)
        # The device that computes has most of it, the processor the graph's input.
        sizes.append(max(part["bytes"] for part in parts if part["part"] == "vision_compute"))
    assert sizes[0] * 100 < sizes[1] * 2 == pytest.approx(sizes[2], rel=0.01)


def test_every_flag_has_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    text = capsys.readouterr().out
    names = [line.split()[0] for line in text.splitlines() if line.startswith("  -")]
    assert len(names) > 25
    parser = Parser(prog="plan")
    add_arguments(parser)
    assert all(action.help for action in parser._actions)


def test_a_mmproj_beside_the_model_is_planned_as_serve_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mmproj = write_tiny(tmp_path, "llava-1.5")
    found = ask(capsys, str(model))
    assert isinstance(found["model"], dict)
    assert found["model"]["vision"] is True
    for name in (str(model), "demo", "llava-1.5-7b"):
        found = ask(capsys, name, "--no-mmproj", "--offline")
        assert isinstance(found["model"], dict)
        assert found["model"]["vision"] is False
    mmproj.unlink()
    found = ask(capsys, str(model))
    assert isinstance(found["model"], dict)
    assert found["model"]["vision"] is False


def test_plan_alone_plans_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--ram", "8GiB"]) == 0
    assert capsys.readouterr().out.startswith("demo: llama")


def test_the_settings_of_the_environment_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_CTX_SIZE", "2048")
    found = ask(capsys, "demo")
    assert isinstance(found["settings"], dict)
    assert found["settings"]["ctx_size"] == 2048


def test_what_the_largest_context_means(capsys: pytest.CaptureFixture[str]) -> None:
    """It gives up layers for cells, and says for how many slots and with which layers."""
    flags = ["--device-memory", "24MiB", "--ram", "1GiB"]
    assert main(["plan", "demo", *flags]) == 0
    text = " ".join(capsys.readouterr().out.split())
    found = re.search(
        r"Largest context that fits: (\d+) tokens for .*? with (\d) of 6 layers", text
    )
    assert found is not None
    assert main(["plan", "demo", *flags, "-c", found[1]]) == 0
    capsys.readouterr()
    assert main(["plan", "demo", *flags, "-c", "1000000"]) == 3
    assert main(["plan", "demo", "--ram", "64GiB", "-c", "1000000"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "One request uses up to 8192 tokens, all that the model was trained for, so" in text


def test_a_larger_card_never_has_less_context(capsys: pytest.CaptureFixture[str]) -> None:
    """Of Llama-3-70B in 4 bits 8, 12, 16 and 24 GiB had 8192, 6656, 4352 and 6400 tokens."""
    found = []
    for size in (6, 8, 12, 16, 24, 48):
        config = EngineConfig(Path("m"), None, Path(), None, None, 1)
        card = DeviceMemory("GPU0", "", "gpu", size * GIB, size * GIB)
        ram = DeviceMemory("CPU", "", "cpu", 1 << 45, 1 << 45)
        fit, _ = fit_model(config, Headers(header_of(LLAMA_3_70B, "q4_k")), (card, ram))
        found.append(fit.best().placement)
    contexts = [placement.ctx_size for placement in found]
    assert contexts == sorted(contexts)
    layers = [placement.n_gpu_layers for placement in found]
    assert layers == sorted(layers)
    assert contexts[0] == 8192


def test_the_two_files_are_not_mixed_up(capsys: pytest.CaptureFixture[str]) -> None:
    from server.hub.catalogue import models_dir

    folder = models_dir() / "demo"
    tower, model = folder / "llava-demo-mmproj-f16.gguf", folder / "llava-demo-q8_0.gguf"
    assert main(["plan", str(tower)]) == 1
    assert "give it with --mmproj" in capsys.readouterr().err
    assert main(["plan", str(model), "--mmproj", str(model)]) == 1
    assert "no vision tower" in capsys.readouterr().err
    assert main(["plan", str(tower), "--mmproj", str(model)]) == 2
    assert "--model and --mmproj are swapped: llava-demo-mmproj" in capsys.readouterr().err


def test_the_catalogue_is_planned_without_its_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("llava-1.6-34b", "llava-phi-3-mini"):
        found = ask(capsys, name, "--offline")
        assert isinstance(found["model"], dict)
        assert (found["model"]["vision"], found["fits"]) == (True, True)
    assert main(["plan", "llava-1.6-34b", "--device-memory", "24GiB"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "planned from the headers that came with llava-server" in text
    assert "all else is exact" not in text
    assert "One request uses up to 4096 tokens" in text


def test_the_shipped_headers_are_those_that_the_script_writes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.ship_headers", "--folder", str(tmp_path)]
    subprocess.run(command, check=True)
    shipped = catalogue.models_dir() / "headers"
    names = sorted(path.name for path in shipped.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        one, other = (read_shipped_header(folder / name) for folder in (shipped, tmp_path))
        assert one == other, name


def test_the_shipped_headers_have_the_published_sizes() -> None:
    """The catalogue's sizes are those that the hub shows; shapes and types give the same."""
    for entry in catalogue.load().values():
        files = catalogue.shipped_headers(entry)
        assert (files is None) == (entry.repo is None), entry.name
        headers = map(read_shipped_header, files or ())
        size = sum(one.n_bytes for header in headers for one in header.tensors.values())
        assert files is None or size / 1e9 == pytest.approx(entry.gigabytes, rel=0.01), entry.name


def test_list_says_what_fits_and_what_was_pulled(
    hub: StandInHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, word in ((8, "yes"), (1, "no")):
        ram = (DeviceMemory("CPU", "", "cpu", size * GIB, size * GIB),)
        monkeypatch.setattr(models, "this_machine", lambda ram=ram: ram)
        assert main(["list"]) == 0
        rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
        assert rows["NAME"][1:4] == ["SIZE", "HERE", "FITS"]
        assert rows["llava-1.5-7b"][1:5] == ["4.70", "GB", "no", word]
        assert rows["demo"][3:5] == ["yes", "yes"]
    assert main(["pull", "hf:us/tiny:q4_0"]) == 0
    card = DeviceMemory("GPU0", "", "gpu", 8 * GIB, 8 * GIB)
    host = DeviceMemory("CPU", "", "cpu", 64 * GIB, 64 * GIB)
    monkeypatch.setattr(models, "this_machine", lambda: (card, host))
    capsys.readouterr()
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    (line,) = (line for line in text.splitlines() if line.startswith("hf:"))
    size = sum(len(hub.files[f"us/tiny/{name}"]) for name in ("tiny-q4_0.gguf", "mmproj-f16.gguf"))
    assert line.split() == [
        *("hf:us/tiny:tiny-q4_0.gguf", f"{size / 1e9:.2f}", "GB", "yes", "yes", "pulled"),
    ]
    layers = next(line for line in text.splitlines() if line.startswith("llava-1.5-13b"))
    assert re.search(r"\d+/41 layers", layers)
