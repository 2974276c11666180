"""GGUF files that lie: each is one clear StartupError, and none is a traceback or a hang."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tower_files import make_tower, read_keys, read_weights

from scripts.synthetic.files import write_llm
from scripts.synthetic.shapes import PRESETS
from server.errors import StartupError
from server.gguf.file import open_gguf
from server.mmproj.facts import read_facts
from server.mmproj.layout import TowerShape
from server.mmproj.reference import random_weights, write_tower

SHAPE = TowerShape(28, 14, 8, 2, 8, 1, 8, 8, pinpoints=((28, 56),))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    make_tower(path, SHAPE)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        read_facts(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def header(n_tensors: int, n_entries: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries)


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def tensor(name: bytes, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", kind, offset)


HUGE = 2**60
LIES = {
    "empty": (b"", "it is empty"),
    "text": (b"<html>404 Not Found</html>" * 9, "not a GGUF file"),
    "old": (header(0, 0, 1), "GGUF version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "written for big-endian machines"),
    "many tensors": (header(HUGE, 0), "middle of its header"),
    "many keys": (header(0, HUGE), "middle of its header"),
    "long key": (header(0, 1) + struct.pack("<Q", HUGE), "middle of its header"),
    "long list": (
        header(0, 1) + key(b"a", 9, struct.pack("<IQ", 4, HUGE)),
        "middle of its header",
    ),
    "long list of texts": (
        header(0, 1) + key(b"a", 9, struct.pack("<IQ", 8, HUGE)),
        "does not fit",
    ),
    "list of lists": (header(0, 1) + key(b"a", 9, struct.pack("<IQ", 9, 1)), "unknown type 9"),
    "unknown value": (header(0, 1) + key(b"a", 99, bytes(8)), "unknown type 99"),
    "no text": (header(0, 1) + key(b"\xff", 4, bytes(4)), "not UTF-8"),
    "twice": (header(0, 2) + key(b"a", 4, bytes(4)) * 2, "'a' appears twice"),
    "alignment": (header(0, 1) + key(b"general.alignment", 4, bytes(4)), "power of two"),
    "dimensions": (header(1, 0) + tensor(b"t", [1] * 5), "5 dimensions"),
    "large": (header(1, 0) + tensor(b"t", [HUGE, HUGE, HUGE]), "inside tensor 't'"),
    "far": (header(1, 0) + tensor(b"t", [1], offset=2**63), "inside tensor 't'"),
    "unknown tensor": (header(1, 0) + tensor(b"t", [32], 77), "unknown type 77"),
    "no row": (header(1, 0) + tensor(b"t", [], 2), "a row of 1"),
    "odd row": (header(1, 0) + tensor(b"t", [33], 2), "a row of 33"),
    "tensor twice": (header(2, 0) + tensor(b"t", [0]) * 2 + bytes(64), "a tensor appears twice"),
    "no tower": (header(0, 0) + bytes(64), "holds no vision tower"),
    "audio": (
        header(0, 1) + key(b"clip.has_audio_encoder", 7, b"\1") + bytes(64),
        "holds an audio tower alone",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_told(lie: str, tmp_path: Path) -> None:
    content, told = LIES[lie]
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(content)
    assert told in refusal(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.gguf")
    assert "directory" in refusal(tmp_path)


def test_a_language_model_is_no_tower(tmp_path: Path) -> None:
    path = tmp_path / "llm.gguf"
    write_llm(path, "llm", PRESETS["tiny"].llm, GGMLQuantizationType.Q8_0, 0)
    assert "holds no vision tower; give --mmproj" in refusal(path)


def test_every_cut_is_noticed(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, len(content) - 64, 97), len(content) - 64]:
        path.write_bytes(content[:length])
        refusal(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 2300), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_changed_bytes_never_surprise(
    places: list[tuple[int, int]], good: Path, tmp_path: Path
) -> None:
    content = bytearray(good.read_bytes())
    for place, value in places:
        content[place] = value
    path = tmp_path / "changed.gguf"
    path.write_bytes(content)
    try:
        size = read_facts(path).image_size
    except StartupError:
        size = 28
    assert 0 < size < 1 << 15


CHANGES: dict[str, Callable[[GGUFWriter], object]] = {
    "image_size is '336'": lambda w: w.add_string("clip.vision.image_size", "336"),
    "image_size is '2147483648'": lambda w: w.add_uint32("clip.vision.image_size", 2**31),
    "patch_size is '0'": lambda w: w.add_uint32("clip.vision.patch_size", 0),
    "patches of 56": lambda w: w.add_uint32("clip.vision.patch_size", 56),
    "3 heads": lambda w: w.add_uint32("clip.vision.attention.head_count", 3),
    "table is (8, 5) where (8, 10)": lambda w: w.add_uint32("clip.vision.image_size", 42),
    "image_mean is": lambda w: w.add_array("clip.vision.image_mean", [0.5]),
    "image_std is": lambda w: w.add_array("clip.vision.image_std", [float("nan")] * 3),
    "pinpoints is": lambda w: w.add_array("clip.vision.image_grid_pinpoints", [28]),
    "feature_layer is": lambda w: w.add_array("clip.vision.feature_layer", ["a"]),
    "projector_type is missing": lambda w: w.add_bool("clip.projector_type", True),
    "projector's last, is missing": lambda w: w.add_string("clip.projector_type", "ldp"),
}


@pytest.mark.parametrize("told", CHANGES)
def test_keys_that_cannot_be(told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = GGUFWriter.write_header_to_file

    def write_altered(writer: GGUFWriter) -> None:
        kept = dict(writer.kv_data[0])
        writer.kv_data[0].clear()
        CHANGES[told](writer)
        writer.kv_data[0] |= {name: kept[name] for name in kept if name not in writer.kv_data[0]}
        finish(writer)

    monkeypatch.setattr(GGUFWriter, "write_header_to_file", write_altered)
    path = tmp_path / "mmproj.gguf"
    make_tower(path, SHAPE)
    assert told in refusal(path)


@pytest.mark.parametrize("class_token", [True, False])
def test_facts_of_a_good_file(class_token: bool, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    weights = make_tower(path, replace(SHAPE, class_token=class_token))
    facts = read_facts(path)
    assert (facts.image_size, facts.patch_size, facts.n_embd, facts.n_layer) == (28, 14, 8, 1)
    assert (facts.n_head, facts.n_ff, facts.n_out) == (2, 8, 8)
    assert facts.has_class_token is class_token
    assert facts.pinpoints == ((28, 56),)
    assert facts.activation == ("quick_gelu" if class_token else "gelu")
    assert facts.is_llava
    assert not facts.fixed  # tiled
    assert facts.n_tokens(56) == 16
    assert facts.n_params == sum(array.size for array in weights.values())
    assert facts.n_bytes == 4 * facts.n_params
    assert facts.image_mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


def test_reads_what_the_gguf_package_reads(tmp_path: Path) -> None:
    """Our reader and the library's agree on every key and every tensor's bytes."""
    path = tmp_path / "mmproj.gguf"
    make_tower(path, SHAPE)
    file = open_gguf(path)
    assert {name: entry.value for name, entry in file.metadata.items()} == read_keys(path)
    theirs = read_weights(path)
    assert list(file.tensors) == list(theirs)
    for name, array in theirs.items():
        assert file.tensors[name].shape == array.shape[::-1]
        assert file.bytes_of(file.tensors[name]).tobytes() == array.tobytes()


BLOCK = "v.blk.0."


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (f"{BLOCK}ffn_up.weight", (16, 8), "shape (8, 16) where (8, 8) is needed"),
        (f"{BLOCK}ffn_up.bias", (9,), "shape (9,) where (8,) is needed"),
        (f"{BLOCK}ffn_down.weight", (8, 24), "is needed"),
        (f"{BLOCK}attn_q.weight", (8, 16), "shape (16, 8) where (8, 8) is needed"),
        (f"{BLOCK}attn_out.bias", (1,), "is needed"),
        (f"{BLOCK}ln1.weight", (7,), "shape (7,) where (8,) is needed"),
        ("v.patch_embd.weight", (8, 3, 14, 7), "where (14, 14, 3, 8) is needed"),
        ("mm.depthwise.weight", (4, 1, 3, 3), "F32 where llama.cpp's convolution needs F16"),
    ],
)
def test_a_tensor_that_would_end_llama_cpp_is_named(
    name: str, shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    weights = random_weights(SHAPE, 5)
    weights[name] = np.zeros(shape, np.float32)
    path = tmp_path / "mmproj.gguf"
    write_tower(path, SHAPE, weights)
    told = refusal(path)
    assert words in told
    assert "v.blk.0." in told or name in told


def test_names_that_old_converters_swapped_are_taken(tmp_path: Path) -> None:
    shape = replace(SHAPE, feed_forward=16)
    weights = random_weights(shape, 5)
    for end in ("weight", "bias"):
        up, down = f"{BLOCK}ffn_up.{end}", f"{BLOCK}ffn_down.{end}"
        weights[up], weights[down] = weights[down], weights[up]
    path = tmp_path / "mmproj.gguf"
    write_tower(path, shape, weights)
    assert read_facts(path).n_ff == 16
