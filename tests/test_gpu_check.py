"""The check for GPUs, as far as it goes without one: what is packed, handed back and told."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from scripts.gpu_check import build, pack, report
from scripts.gpu_check.__main__ import main
from scripts.gpu_check.build import Place
from scripts.gpu_check.measure import Shape, pair

LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:0
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:0
llama-cpp-python==0.3.36 \\
    --hash=sha256:0
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:0
h11==0.16.0 \\
    --hash=sha256:0
"""


def test_the_other_machine_s_wheels_are_those_of_its_python() -> None:
    assert list(pack.requirements(LOCK, "3.12")) == ["numpy==2.5.5", "h11==0.16.0"]
    assert list(pack.requirements(LOCK, "3.11")) == ["numpy==2.4.6", "h11==0.16.0"]


def test_the_archive_keeps_what_a_cuda_build_reads(tmp_path: Path) -> None:
    llama = "vendor/llama.cpp"
    kept = {
        "llama_cpp/llama_cpp.py",
        f"{llama}/CMakeLists.txt",
        f"{llama}/ggml/src/ggml-cuda/fattn.cu",
        f"{llama}/ggml/src/ggml-cpu/ops.cpp",
        f"{llama}/src/models/llama.cpp",
        f"{llama}/tools/mtmd/models/llava.cpp",
        f"{llama}/tools/server/server.cpp",
        f"{llama}/tools/ui/CMakeLists.txt",
        f"{llama}/common/" + "deep/" * 40 + "arg.cpp",
    }
    left = {
        f"{llama}/models/ggml-vocab-llama.gguf",
        f"{llama}/tools/ui/src/page.svelte",
        f"{llama}/ggml/src/ggml-vulkan/x.comp",
        f"{llama}/docs/build.md",
        f"{llama}/README.md",
        "examples/server/server.py",
        "docs/index.md",
    }
    whole, small = tmp_path / "whole.tar.gz", tmp_path / "small.tar.xz"
    with tarfile.open(whole, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(kept | left):
            member = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    pack.trim(whole, small)
    with tarfile.open(small) as archive:
        assert set(archive.getnames()) == kept
        for name in kept:
            found = archive.extractfile(name)
            assert found is not None
            assert found.read() == name.encode()


def test_what_was_built_survives_the_way_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_PART", 1000)
    place = Place(tmp_path / "there")
    for path in (place.program, place.site / "llama_cpp" / "lib" / "libllama.so"):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(range(256)) * 40 + path.name.encode())
    out = tmp_path / "out"
    out.mkdir()
    build._hand_out(place, out)
    parts = sorted(out.iterdir())
    assert all(part.stat().st_size <= 1000 for part in parts)
    again = Place(tmp_path / "again")
    again.work.mkdir()
    build._unpack(parts, again.work)
    assert again.ready
    assert again.program.read_bytes() == place.program.read_bytes()
    assert (again.program.parent / "libllama.so").exists(), "llama-server finds its libraries"


def test_models_are_written_once(tmp_path: Path) -> None:
    files = pair("tiny", "f16", tmp_path)
    times = files.model.stat().st_mtime_ns, files.mmproj.stat().st_mtime_ns
    assert pair("tiny", "f16", tmp_path) == files
    assert times == (files.model.stat().st_mtime_ns, files.mmproj.stat().st_mtime_ns)


def test_the_tables_and_the_file(tmp_path: Path) -> None:
    mib = 2**20
    parts = [
        ("weights", "CUDA0", 4000 * mib, 4010 * mib, False),
        ("compute", "CUDA0", 150 * mib, 120 * mib, True),
        ("image_cache", "CPU", 256 * mib, None, False),
    ]
    keys = ("part", "device", "predicted", "measured", "estimated")
    memory = {
        "parts": [dict(zip(keys, part, strict=True)) for part in parts],
        "layers": 33, "layers_offloaded": 33, "encoder": "CUDA0",
    }  # fmt: skip
    vram = {"ours": [100 * mib, 4800 * mib, 4810 * mib], "llama-server": [None, None, None]}
    figures = {"ours": {"new_picture.first": 0.1}, "llama-server": {"new_picture.first": 0.2}}
    shape = Shape("llava-1.5-7b", memory, vram, figures)
    text = "\n".join(report.lines([shape]))
    assert "| weights | CUDA0 | 4000.0 | 4010.0 | -0.2% |" in text
    assert "| compute | CUDA0 | ~150.0 | 120.0 | +25.0% |" in text
    assert "| total | | 4150.0 | 4130.0 | +0.5% |" in text
    assert "Layers on the GPU: 33 of 33; vision tower on CUDA0." in text
    assert "ours: 4700 MiB of the card when ready, +10 MiB after use." in text
    assert "llama-server: " not in text, "nothing is told of what was not measured"
    assert "| one new picture at a time: first token | s | 0.1 | 0.2 | 0.50 |" in text
    file = report.write([shape], {"cpu": "x"}, tmp_path)
    assert json.loads(file.read_text())["shapes"][0]["name"] == "llava-1.5-7b"


def test_measuring_needs_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--work", str(tmp_path)]) == 1
    assert "run `build` first" in capsys.readouterr().err
