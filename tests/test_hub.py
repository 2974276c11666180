"""Where models come from: paths, the catalogue, and a stand-in hub on loopback."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.utils._http as hub_http
import pytest
import tomli
from huggingface_hub import constants

from scripts.synthetic.tiny import write_tiny
from server.errors import ConfigError, StartupError
from server.hub import catalogue
from server.hub import resolve as hub
from server.hub.catalogue import CatalogueEntry
from server.hub.choose import choose
from server.hub.download import Download, cache_folder
from server.settings.settings import Settings
from tests.stand_in_hub import StandInHub, serving

LLM = b"GGUF" + bytes(range(256)) * 4096
MMPROJ = b"GGUF" + b"vision" * 5000
ENTRY = CatalogueEntry(
    "tiny", "tiny.Q4_K_M.gguf", "mmproj-f16.gguf", "MIT", 0.1, "", "us/tiny", None, "vicuna"
)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    with serving() as server:
        server.files["us/tiny/tiny.Q4_K_M.gguf"] = LLM
        server.files["us/tiny/mmproj-f16.gguf"] = MMPROJ
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_http.time, "sleep", lambda _seconds: None)
        monkeypatch.setattr(catalogue, "load", lambda: {"tiny": ENTRY})
        monkeypatch.setattr(hub_http, "_GLOBAL_CLIENT", None)
        yield server
        huggingface_hub.close_session()


def test_a_catalogue_model_is_downloaded_once(online: StandInHub) -> None:
    found = hub.resolve(Settings(model="tiny"))
    assert found.name == "tiny"
    assert found.chat_template == "vicuna"
    assert found.model.read_bytes() == LLM
    assert found.mmproj is not None
    assert found.mmproj.read_bytes() == MMPROJ
    assert hub.is_downloaded(ENTRY)
    asked = len(online.requests)
    assert hub.resolve(Settings(model="tiny", offline=True)) == found
    assert hub.resolve(Settings(model="tiny")) == found
    assert len(online.requests) == asked, "what is here needs no hub"


def test_an_own_mmproj_replaces_the_catalogues(online: StandInHub, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    assert hub.resolve(Settings(model="tiny", mmproj=own)).mmproj == own
    assert not any("mmproj" in path for _, path, _ in online.requests)
    with pytest.raises(ConfigError, match=r"--mmproj: no such file: .*nothing\.gguf"):
        hub.resolve(Settings(model="tiny", mmproj=tmp_path / "nothing.gguf"))


def test_an_interrupted_download_goes_on_where_it_stopped(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    online.cut = "tiny.Q4_K_M.gguf"
    assert hub.resolve(Settings(model="tiny")).model.read_bytes() == LLM
    whole_chunks = len(LLM) // 2 >> 16 << 16
    assert online.ranges()[:2] == [None, f"bytes={whole_chunks}-"]


def test_a_file_of_the_wrong_size_is_refused(online: StandInHub) -> None:
    online.short = "tiny.Q4_K_M.gguf"
    with pytest.raises(StartupError, match="wrong size; run the same command again"):
        hub.resolve(Settings(model="tiny"))
    assert not hub.is_downloaded(ENTRY)


def test_offline_names_what_is_missing_and_what_to_do(online: StandInHub) -> None:
    with pytest.raises(StartupError) as caught:
        hub.resolve(Settings(model="tiny", offline=True))
    text = caught.value.message
    for part in (
        f"tiny.Q4_K_M.gguf from {online.url}/us/tiny",
        f"mmproj-f16.gguf from {online.url}/us/tiny",
        "the server is offline",
        "llava-server pull tiny",
        "--mmproj",
    ):
        assert part in text
    assert "\n" not in text
    assert online.requests == []


def test_offline_names_only_what_is_missing(online: StandInHub) -> None:
    mmproj = online.files.pop("us/tiny/mmproj-f16.gguf")
    with pytest.raises(StartupError, match=r"us/tiny has no file mmproj-f16\.gguf"):
        hub.resolve(Settings(model="tiny"))
    assert not online.ranges(), "no gigabytes for a model that is not complete"
    online.files["us/tiny/mmproj-f16.gguf"] = mmproj
    found = hub.resolve(Settings(model="tiny")).mmproj
    assert found is not None
    found.unlink()
    with pytest.raises(StartupError) as caught:
        hub.resolve(Settings(model="tiny", offline=True))
    assert "missing: mmproj-f16.gguf from" in caught.value.message


def test_an_unreachable_hub_is_told_from_being_offline(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    template = closed + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for name in ("tiny", "hf:us/tiny"):
        with pytest.raises(StartupError, match="the hub cannot be reached") as caught:
            hub.resolve(Settings(model=name))
        assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("gated", "us/tiny", "is gated: accept its terms there, then set HF_TOKEN"),
        ("token", "secret", "answered with status 401; set HF_TOKEN to a token that may read it"),
        ("files", {}, "does not exist, or is private"),
    ],
)
def test_refusals_of_the_hub(online: StandInHub, setting: str, value: object, words: str) -> None:
    setattr(online, setting, value)
    with pytest.raises(StartupError) as caught:
        hub.resolve(Settings(model="tiny"))
    assert words in caught.value.message
    assert f"{online.url}/us/tiny" in caught.value.message


def test_the_token_opens_what_is_private(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert hub.resolve(Settings(model="tiny")).model.read_bytes() == LLM


def test_a_repository_by_quantization(online: StandInHub) -> None:
    online.files["us/tiny/tiny.Q8_0.gguf"] = b"GGUF8"
    found = hub.resolve(Settings(model="hf:us/tiny:q8_0"))
    assert (found.name, found.model.read_bytes()) == ("tiny", b"GGUF8")
    assert found.mmproj is not None
    assert hub.resolve(Settings(model="hf:us/tiny")).model.name == "tiny.Q4_K_M.gguf"
    alone = hub.resolve(Settings(model="hf:us/tiny", mmproj=Path("none")))
    assert (alone.model.name, alone.mmproj) == ("tiny.Q4_K_M.gguf", None)
    again = hub.resolve(Settings(model="hf:us/tiny:Q8_0", offline=True))
    assert again == found
    with pytest.raises(ConfigError, match=r"has no Q2_K; it has tiny\.Q4_K_M\.gguf"):
        hub.resolve(Settings(model="hf:us/tiny:Q2_K"))


def test_a_start_from_the_cache_needs_no_hub(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Down, closed to us, or gone: what is here is served, after one try."""
    first = hub.resolve(Settings(model="hf:us/tiny:Q4_K_M"))
    online.token = "secret"
    assert hub.resolve(Settings(model="hf:us/tiny:Q4_K_M")) == first
    assert "status 401" in caplog.text
    online.token, online.files = None, {}
    assert hub.resolve(Settings(model="hf:us/tiny:Q4_K_M")) == first
    waits: list[float] = []
    sleep, own = time.sleep, threading.get_ident()

    def wait(seconds: float) -> None:
        """Threads of other tests sleep as ever: the function is one for all."""
        if threading.get_ident() != own:
            sleep(seconds)
        else:
            waits.append(seconds)

    monkeypatch.setattr(hub_http.time, "sleep", wait)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.resolve(Settings(model="hf:us/tiny:Q4_K_M")) == first
    assert len(waits) <= 1, "one retry and no more"
    assert "using what is in the cache" in caplog.text


def test_offline_a_missing_mmproj_is_refused(
    online: StandInHub, caplog: pytest.LogCaptureFixture
) -> None:
    found = hub.resolve(Settings(model="hf:us/tiny"))
    assert found.mmproj is not None
    found.mmproj.unlink()
    with pytest.raises(StartupError, match=r"missing: mmproj-f16\.gguf from"):
        hub.resolve(Settings(model="hf:us/tiny", offline=True))
    # Downloaded by another program, which left no listing: only a warning is possible.
    cache_folder("us/tiny").joinpath("llava-server-listing.json").unlink()
    assert hub.resolve(Settings(model="hf:us/tiny", offline=True)).mmproj is None
    assert "no vision tower (mmproj) among the files that are known" in caplog.text


def test_pull_repairs_what_is_damaged(online: StandInHub, caplog: pytest.LogCaptureFixture) -> None:
    found = hub.resolve(Settings(model="hf:us/tiny"))
    blob = found.model.resolve()
    for damage in (LLM[: len(LLM) // 2], b"\0" * len(LLM)):
        blob.write_bytes(damage)
        assert hub.resolve(Settings(model="hf:us/tiny")).model.read_bytes() == damage
        caplog.clear()
        assert hub.resolve(Settings(model="hf:us/tiny"), repair=True).model.read_bytes() == LLM
        assert "tiny.Q4_K_M.gguf was damaged and has been downloaded again" in caplog.text
        assert "mmproj" not in caplog.text
    asked = len(online.ranges())
    hub.resolve(Settings(model="hf:us/tiny"), repair=True)
    assert len(online.ranges()) == asked, "what is whole is not fetched"


def test_a_download_goes_on_in_another_process(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    seen: list[int] = []

    def stop(_file: str, done: int, _total: int) -> None:
        seen.append(done)
        if done > 1 << 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.resolve(Settings(model="tiny"), stop)
    partial = seen[-1]
    assert hub.resolve(Settings(model="tiny")).model.read_bytes() == LLM
    assert f"bytes={partial}-" in online.ranges()


def test_a_wrong_content_is_refused_and_not_kept(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(self: Download) -> str:
        return f"{online.url}/us/tiny/resolve/main/mmproj-f16.gguf"

    monkeypatch.setattr(Download, "url", property(lie))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    online.files["us/tiny/mmproj-f16.gguf"] = LLM[::-1]
    with pytest.raises(StartupError, match="wrong checksum; run the same command again"):
        hub.resolve(Settings(model="tiny"))
    assert not list(cache_folder("us/tiny").rglob("*.partial"))


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    online: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 20))
    with pytest.raises(
        StartupError, match=r"1\.0 MiB are to be downloaded and .* has 1\.0 MiB free"
    ):
        hub.resolve(Settings(model="tiny"))
    assert not online.ranges()


def test_a_revision_is_asked_for(online: StandInHub) -> None:
    assert hub.resolve(Settings(model="hf:us/tiny@main:Q4_K_M")).model.read_bytes() == LLM
    assert {path for _, path, _ in online.requests if "tree" in path} == {
        "/api/models/us/tiny/tree/main"
    }


def test_a_mmproj_beside_a_local_model_is_taken_if_it_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, mmproj = write_tiny(tmp_path, "llava-1.5")
    with caplog.at_level("INFO"):
        assert hub.resolve(Settings(model=str(model))).mmproj == mmproj
        assert hub.resolve(Settings(model=str(model), mmproj=Path("none"))).mmproj is None
    assert "mmproj-llava-1.5.gguf, which lies beside the model and fits it" in caplog.text
    shutil.copy(mmproj, tmp_path / "mmproj-other.gguf")
    assert hub.resolve(Settings(model=str(model))).mmproj == mmproj, "named like the model"
    mmproj.rename(tmp_path / "mmproj-another.gguf")
    caplog.clear()
    assert hub.resolve(Settings(model=str(model))).mmproj is None
    assert "in the model's folder are mmproj-another.gguf, mmproj-other.gguf" in caplog.text
    (tmp_path / "wide").mkdir()
    wide = write_tiny(tmp_path / "wide", "minicpmv")
    caplog.clear()
    assert hub.resolve(Settings(model=str(wide[0]))).mmproj is None
    assert "mmproj-minicpmv.gguf" in caplog.text, "whether it fits is not known"


def test_a_split_model_brings_all_parts() -> None:
    files = [
        "big-Q4_K_M-00001-of-00002.gguf",
        "big-Q4_K_M-00002-of-00002.gguf",
        "big-Q8_0-00001-of-00001.gguf",
        "mmproj-big-f32.gguf",
        "mmproj-big-f16.gguf",
        "README.md",
    ]
    assert choose(files, "us/big", None) == (files[:2], "mmproj-big-f16.gguf")
    assert choose(files, "us/big", "Q8_0") == ([files[2]], "mmproj-big-f16.gguf")
    assert choose(["odd.gguf"], "us/odd", None) == (["odd.gguf"], None)
    with pytest.raises(ConfigError, match=r"no usual quantization to choose; it has a\.gguf, b"):
        choose(["a.gguf", "b.gguf"], "us/odd", None)
    with pytest.raises(ConfigError, match="no GGUF model at all"):
        choose(["README.md"], "us/odd", None)


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "llava-v1.gguf"
    file.write_bytes(b"GGUF")
    assert hub.resolve(Settings(model=str(file))) == hub.ResolvedModel("llava-v1", file, None)
    with pytest.raises(ConfigError, match="is a folder"):
        hub.resolve(Settings(model=str(tmp_path)))
    with pytest.raises(ConfigError, match="no such file"):
        hub.resolve(Settings(model="nothing.gguf"))


def test_an_unknown_name_is_answered_with_the_likely_one() -> None:
    with pytest.raises(ConfigError) as caught:
        hub.resolve(Settings(model="llava-1.6-mistral"))
    assert "did you mean llava-1.6-mistral-7b?" in caught.value.message
    for name, meant in (("llava", "llava-phi-3-mini"), ("LLaVA-1.5", "llava-1.5-7b")):
        with pytest.raises(ConfigError, match=rf"did you mean {meant}\?"):
            hub.resolve(Settings(model=name))
    assert "known are demo, " in caught.value.message
    with pytest.raises(ConfigError, match="for a repository write hf:us/tiny"):
        hub.resolve(Settings(model="us/tiny"))


def test_the_catalogue_is_well_formed() -> None:
    entries = catalogue.load()
    assert next(iter(entries)) == "demo"
    for entry in entries.values():
        assert re.fullmatch(r"[a-z0-9.-]+", entry.name)
        assert entry.file.endswith(".gguf")
        assert "mmproj" in entry.mmproj
        assert entry.repo is None or re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repo)
        assert entry.repo is None or entry.chat_template
        assert entry.licence
        assert entry.gigabytes > 0
    assert len(entries) >= 8


def test_a_faulty_catalogue_says_where(tmp_path: Path) -> None:
    for text, words in (("[x]\nfoo = 1", "foo"), ("[x", "Expected"), ("[x]\nfile='a'", "mmproj")):
        (tmp_path / "faulty.toml").write_text(text)
        catalogue.load.cache_clear()
        with pytest.raises(ConfigError, match=rf"faulty\.toml: .*{words}"):
            catalogue.load(tmp_path)
    catalogue.load.cache_clear()


def test_the_demo_names_files_that_its_trainer_writes() -> None:
    table = tomli.loads((catalogue.models_dir() / "demo.toml").read_text(encoding="utf-8"))
    assert {Path(table["demo"][key]).parent.name for key in ("file", "mmproj")} == {"demo"}


def test_a_missing_demo_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = catalogue.load()["demo"]
    monkeypatch.setattr(catalogue, "models_dir", lambda: tmp_path)
    assert not hub.is_downloaded(entry)
    with pytest.raises(StartupError, match="is missing from this installation"):
        hub.resolve(Settings(model="demo"))
    (tmp_path / "demo").mkdir()
    (tmp_path / entry.file).touch()
    (tmp_path / entry.mmproj).touch()
    assert hub.resolve(Settings(model="demo")).mmproj == tmp_path / entry.mmproj
