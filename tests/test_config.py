"""Settings: where they come from, which wins, and what a wrong one is answered with."""

from __future__ import annotations

import argparse
from dataclasses import MISSING
from pathlib import Path

import pytest

from scripts import document_settings
from server.errors import ConfigError
from server.messages import EngineConfig
from server.settings.command_line import (
    add_settings,
    flag_info,
    flag_of,
    load_settings,
    variable_of,
)
from server.settings.hardware import usable_cores
from server.settings.parser import Parser
from server.settings.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)


def from_line(*line: str) -> Settings:
    parser = Parser(prog="llava-server serve")
    add_settings(parser)
    return load_settings(vars(parser.parse_args(line)))


def test_defaults_serve_the_demo_to_this_machine_alone() -> None:
    settings = from_line()
    assert (settings.model, settings.host, settings.port) == ("demo", "127.0.0.1", 8000)
    assert settings.api_key == ()
    assert settings.image_max_bytes == 20 * 1024 * 1024
    assert settings.image_background == (255, 255, 255)
    assert settings.n_threads >= 1
    assert (settings.gpu_layers, settings.ctx_size, settings.parallel) == (None, None, None)


def test_flag_beats_variable_beats_file_beats_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "llava.toml"
    file.write_text('port = 1\nctx-size = 1\nparallel = 1\nn_gpu_layers = "all"\n')
    monkeypatch.setenv("LLAVA_PORT", "2")
    monkeypatch.setenv("LLAVA_CTX_SIZE", "2")
    settings = from_line("--config", str(file), "--port", "3")
    assert (settings.port, settings.ctx_size, settings.parallel) == (3, 2, 1)
    assert (settings.n_gpu_layers, settings.batch_size) == ("all", 512)
    monkeypatch.setenv("LLAVA_CONFIG", str(file))
    assert from_line().parallel == 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_flag_a_variable_and_a_key(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values: dict[str, object] = {
        "config": str(tmp_path / "other.toml"), "log_level": "debug", "cache_dir": "/c",
        "verbose": True,
        "offline": True, "model": "m.gguf", "mmproj": "/p.gguf", "alias": "a", "llava_fix": "off",
        "host": "::1", "port": 1, "api_key": "k", "ctx_size": 1, "parallel": 2, "threads": 3,
        "batch_size": 4, "ubatch_size": 5, "n_gpu_layers": 6, "mmproj_offload": "cpu",
        "image_detail": "low", "image_min_tokens": 15, "image_max_tokens": 16,
        "image_size": 28, "image_max_edge": 56, "image_max_bytes": 7, "image_max_pixels": 8,
        "image_max_count": 9, "image_background": "#010203", "image_urls": False,
        "image_url_allow": "a.test,127.0.0.1:81", "image_fetch_timeout": 2.5, "image_root": "/r",
        "files_max_bytes": 10, "files_expire": 11, "itl_target": 12.5, "stream_interval": 13.5,
        "prefix_cache_cells": 77, "cache_ram": 78, "cache_reuse": 79, "image_cache_bytes": 13,
        "image_prepared_bytes": 23, "image_decoders": 24, "image_decode_seconds": 25.5,
        "image_decode_bytes": 26,
        "image_cache_dir": "/kept", "image_cache_dir_bytes": 14,
        "mtmd_batch_max_tokens": 14,
        "image_max_side": 14, "max_tokens": 16, "request_timeout": 17.5, "stall_timeout": 18,
        "max_queue": 20, "max_body_bytes": 21, "max_connections": 22, "rate_limit": "23/minute",
        "key_concurrency": 24, "client_timeout": 25.5, "drain_timeout": 26.5, "docs": False,
        "page": False,
        "api_key_file": "/k.toml", "insecure": True, "ssl_key_file": "/k.pem",
        "ssl_cert_file": "/c.pem", "cors_origin": "https://a.test,http://b.test:81",
        "trusted_proxy": "10.0.0.1,10.1.0.0/16", "metrics_port": 27, "reuse_port": True,
        "restart_timeout": 19.5, "engine_restart": "retry", "timeout_keep_alive": 99.5,
        "image_max_frames": 15, "sse_ping_interval": 17,
        "responses_max_count": 21, "responses_max_bytes": 22,
        "log_format": "json", "log_content": True, "otlp_endpoint": "http://collector:4318",
        "chat_template": "vicuna", "chat_template_file": "/t.jinja", "reasoning_format": "none",
        "fit": "off", "memory_margin": 16, "cache_type_k": "q8_0", "cache_type_v": "q4_0",
        "flash_attn": "on", "mmap": False, "mlock": True, "split_mode": "none", "main_gpu": 1,
        "tensor_split": "3,1", "device": "CUDA1,CUDA0", "rpc": "10.0.0.2:50052,gpu-box:50053",
    }  # fmt: skip
    value = values[name]
    (tmp_path / "other.toml").touch()
    default = getattr(Settings(), name)
    flag = flag_of(name)
    if isinstance(value, bool):
        by_flag = from_line(flag if value else flag.replace("--", "--no-"))
    else:
        by_flag = from_line(flag, str(value))
    for short in flag_info(Settings.model_fields[name]).short:
        given = [] if isinstance(value, bool) else [str(value)]
        assert from_line(short, *given) == by_flag
    monkeypatch.setenv(variable_of(name), str(value))
    by_variable = from_line()
    monkeypatch.delenv(variable_of(name))
    assert getattr(by_flag, name) == getattr(by_variable, name) != default
    if name != "config":
        text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        (tmp_path / "one.toml").write_text(f"{name.replace('_', '-')} = {text}\n")
        by_key = from_line("--config", str(tmp_path / "one.toml"))
        assert getattr(by_key, name) == getattr(by_flag, name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--port", "99999"], "--port: should be less than or equal to 65535 (got '99999')"),
        (["--port", "x"], "--port: should be a valid integer"),
        (["--rpc", "10.0.0.2"], "--rpc: must be addresses such as 10.0.0.2:50052"),
        (["--rpc", "10.0.0.2:0"], "--rpc: must be addresses such as 10.0.0.2:50052"),
        (["--rpc", "[::1]:50052"], "--rpc: must be names or IPv4 addresses"),
        (["--rpc", "a:1,a:1"], "--rpc: must not name one twice"),
        (["--parallel", "0"], "--parallel: should be greater than or equal to 1"),
        (["--parallel", "256"], "--parallel: should be less than or equal to 255 (got '256')"),
        (["-ngl", "most"], "--n-gpu-layers: must be auto, all or a number of layers (got 'most')"),
        (["--image-background", "grue"], "--image-background: must be a colour such as white"),
        (["--image-max-bytes", "lots"], "--image-max-bytes: could not parse value and unit"),
        (["--llava-fix", "maybe"], "--llava-fix: should be 'auto' or 'off'"),
        (["--model", " "], "--model: must not be empty"),
        (["--api-key", ""], "--api-key: must not be empty"),
        (["-ctk", "q3_0"], "--cache-type-k: must be auto or one of f32, f16"),
        (["-fa", "maybe"], "--flash-attn: should be 'on' or 'off'"),
        (["-ts", "0,0"], "--tensor-split: must be numbers from 0 on, and one of them more than 0"),
        (["-ts", "1,x"], "--tensor-split: must be numbers such as 3,1"),
        (["-ts", "1,nan"], "--tensor-split: must be numbers from 0 on"),
        (["-sm", "row"], "--split-mode: should be 'layer' or 'none'"),
        (["--rate-limit", "60"], "--rate-limit: must be a number in a time, such as 10/second"),
        (["--cors-origin", "https://a.test/x"], "--cors-origin: must be origins such as"),
        (["--trusted-proxy", "proxy"], "--trusted-proxy: must be addresses or networks"),
        (["--portt", "1"], "unknown argument --portt; did you mean --port?"),
        (["--port"], "argument --port: expected one argument; see `llava-server serve --help`"),
        (["--config", "/nowhere.toml"], "--config: cannot read /nowhere.toml: No such file"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(line: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_line(*line)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--port: .*; --parallel: "):
        from_line("--port", "x", "--parallel", "x")


def test_a_wrong_key_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "llava.toml"
    file.write_text('api-key = [["hush"]]\n')
    with pytest.raises(ConfigError, match="api-key") as caught:
        from_line("--config", str(file))
    assert "hush" not in caught.value.message
    assert "hush" not in repr(from_line("--api-key", "hush"))


def test_wrong_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_PORT", "x")
    with pytest.raises(ConfigError, match=r"^LLAVA_PORT: should be a valid integer"):
        from_line()
    monkeypatch.setenv("LLAVA_PORT", "")
    assert from_line().port == 8000, "an empty variable is as good as none"
    monkeypatch.setenv("LLAVA_PROT", "1")
    with pytest.raises(
        ConfigError, match=r"^LLAVA_PROT: no such setting; did you mean LLAVA_PORT\?"
    ):
        from_line()


@pytest.mark.parametrize(
    "name", ["LLAVA_SERVER_SERVICE_HOST", "LLAVA_SERVER_PORT", "LLAVA_SERVER_PORT_80_TCP_ADDR"]
)
def test_what_kubernetes_sets_is_no_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert from_line().port == 8000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 'x'", "port: should be a valid integer"),
        ("prot = 1", "prot: no such setting; did you mean port?"),
        ("[server]\nport = 1", "server: no such setting"),
        ("port = ", "is not valid TOML"),
        ("image-size = 3", "image-size: should be greater than or equal to 14"),
    ],
)
def test_a_wrong_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "llava.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        from_line("--config", str(file))
    assert words in caught.value.message
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message


def test_spellings_of_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    settings = from_line(
        "--mmproj", "~/m.gguf", "-ngl", "-1", "--image-max-bytes", "5MiB", "--log-level", "DEBUG"
    )
    assert settings.mmproj == tmp_path / "m.gguf"
    assert settings.n_gpu_layers == "all"
    assert from_line("-ngl", "7").gpu_layers == 7
    assert settings.image_max_bytes == 5 * 1024 * 1024
    assert settings.log_level == "debug"
    assert settings.cache_dir == tmp_path / "xdg" / "llava-server"
    assert from_line("-t", "3").n_threads == 3
    assert from_line("-t", "-1").n_threads >= 1
    assert from_line("--image-background", "rgb(1,2,3)").image_background == (1, 2, 3)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (["--no-mmproj-offload"], "mmproj_offload", "cpu"),
        (["--mmproj-offload"], "mmproj_offload", "gpu"),
        (["--mmproj-offload", "auto"], "mmproj_offload", None),
        (["--mmproj-offload", "gpu"], "mmproj_offload", "gpu"),
        (["--no-mmap"], "mmap", False),
        (["-fa", "1"], "flash_attn", "on"),
        (["-fa", "AUTO"], "flash_attn", None),
        (["-ts", "3/1"], "tensor_split", (3.0, 1.0)),
        (["-ctk", "Q8_0"], "cache_type_k", "q8_0"),
        (["-np", "-1"], "parallel", None),
        (["-np", "auto"], "parallel", None),
        (["-c", "0"], "ctx_size", 0),
        (["-c", "auto"], "ctx_size", None),
        (["-ngl", "all"], "gpu_layers", -1),
        (["--memory-margin", "1GiB"], "memory_margin", 1024**3),
    ],
)
def test_memory_is_set_as_llama_server_spells_it(line: list[str], name: str, value: object) -> None:
    assert getattr(from_line(*line), name) == value


@pytest.mark.parametrize("variable", ["true", "1", "false"])
def test_an_older_variable_of_the_tower_still_counts(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MMPROJ_OFFLOAD", variable)
    assert from_line().mmproj_offload == ("cpu" if variable == "false" else "gpu")


def test_flags_of_lists_may_be_repeated() -> None:
    keys = from_line("--api-key", "a, b", "--api-key", "c").api_key
    assert [key.get_secret_value() for key in keys] == ["a", "b", "c"]
    assert from_line("--trusted-proxy", "::1", "--trusted-proxy", "10.0.0.0/8").trusted_proxy == (
        "::1",
        "10.0.0.0/8",
    )


def test_the_help_shows_every_setting_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    text = " ".join(parser.format_help().split())
    for name, field in Settings.model_fields.items():
        assert flag_of(name) in text
        assert str(field.description) in text
    assert text.count("(default: ") == len(Settings.model_fields)


def test_the_page_of_settings_is_up_to_date() -> None:
    page = document_settings.PAGE.read_text(encoding="utf-8")
    assert page == document_settings.page(), "run python -m scripts.document_settings"


def test_defaults_are_written_once() -> None:
    """A default that stood in two places was 50 million in one and 64 in the other."""
    from server.images.options import ImageLimits

    settings = Settings()
    limits = ImageLimits()
    assert limits.max_bytes == settings.image_max_bytes
    assert limits.max_pixels == settings.image_max_pixels
    assert limits.max_side == settings.image_max_side
    assert limits.max_images == settings.image_max_count
    assert limits.max_frames == settings.image_max_frames
    bare = EngineConfig(Path(), None, Path(), None, None, 1)
    # Milliseconds on the command line, seconds inside; the others are other names or types.
    units = {"itl_target": 1000, "stream_interval": 1000}
    other = {"model", "cache_dir", "threads", "llava_fix"}
    for name, field in EngineConfig.__dataclass_fields__.items():
        if name in Settings.model_fields and name not in other and field.default is not MISSING:
            found = getattr(bare, name) * units[name] if name in units else getattr(bare, name)
            assert found == getattr(settings, name), name


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """A /proc and a /sys/fs/cgroup; the names of files have __ for / and dots as they are."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/pod/box\n", {"pod__box__cpu.max": "400000 100000"}, 4),
        ("0::/pod/box\n", {"pod__box__cpu.max": "max 100000", "pod__cpu.max": "250000 100000"}, 2),
        ("0::/pod/box\n", {"pod__box__cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/not/in/this/container\n", {"cpu.max": "300000 100000"}, 3),
        (
            "4:cpu,cpuacct:/box\n1:name=systemd:/\n",
            {
                "cpu,cpuacct__box__cpu.cfs_quota_us": "600000",
                "cpu,cpuacct__box__cpu.cfs_period_us": "100000",
            },
            6,
        ),
        ("4:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1", "cpu__cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
        ("", {}, 64),
    ],
)
def test_threads_are_bounded_by_the_quota_of_a_container(
    cgroup: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores(machine(tmp_path, cgroup, **files)) == cores
