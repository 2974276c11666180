"""Cutting long texts: the pieces have the tokens of the whole, for every kind of vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, TokenType
from gguf_files import copy_metadata, finish
from hypothesis import given, settings
from hypothesis import strategies as st
from live import DEMO

from scripts.synthetic.tiny import write_tiny
from server.engine import seams as seams_module
from server.engine import tokenize_thread
from server.engine.llama import model as llama_model
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.engine.prompt_tokens import Text, fragments, tokenize_fragments
from server.engine.seams import PIECE, Seams, find_seams
from server.engine.tokenize_thread import split
from server.messages import LiteralText

SPECIALS = ["<s>", "</s>", "<|end|>", "<|user|>"]
# Joined by the merges below, some across characters' bytes.
JOINED = [
    "th",
    "the",
    " t",
    " the",
    "in",
    "ing",
    "er",
    "é",
    "ü",
    "日",
    "日本",
    "😀",
    "'s",
    "12",
    "!!",
    "\n\n",
]


def bpe(folder: Path, pre: str) -> Path:
    """A tiny model whose vocabulary is BPE's, with a pre-tokenizer of llama.cpp's."""
    source, _ = write_tiny(folder, "llava-1.5")
    codes = _byte_letters()
    tokens, merges = list(codes.values()), []
    for text in JOINED:
        letters = [codes[byte] for byte in text.encode()]
        for end in range(2, len(letters) + 1):
            left, right = "".join(letters[: end - 1]), letters[end - 1]
            if left + right not in tokens:
                tokens.append(left + right)
                merges.append(f"{left} {right}")
    reader = GGUFReader(source)
    path = folder / f"{pre}.gguf"
    writer = GGUFWriter(path, "llama")
    copy_metadata(reader, writer)
    size = int(next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1])
    tokens += SPECIALS
    kinds = [TokenType.NORMAL] * (len(tokens) - len(SPECIALS)) + [TokenType.CONTROL] * len(SPECIALS)
    kinds += [TokenType.UNUSED] * (size - len(tokens))
    tokens += [f"unused{number}" for number in range(size - len(tokens))]
    for key in [key for key in writer.kv_data[0] if key.startswith("tokenizer.ggml.")]:
        del writer.kv_data[0][key]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    finish(writer)
    return path


def _byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = itertools.count(256)
    return {byte: chr(byte if byte in plain else next(others)) for byte in range(256)}


@pytest.fixture(
    scope="module", params=["demo", "spm", "gpt-2", "llama-bpe", "qwen2", "deepseek-llm"]
)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    log = LlamaLog()
    folder = tmp_path_factory.mktemp("vocabulary")
    if request.param == "demo":
        path = DEMO / "llava-demo-q8_0.gguf"
    elif request.param == "spm":
        path, _ = write_tiny(folder, "llava-1.5")
    else:
        path = bpe(folder, request.param)
    opened = Model(path, 0)
    yield opened
    opened.close()
    log.stop_keeping()


words = st.sampled_from([
    "the", "thing", "World's", "don't", "12345", "ABCdEf", "über", "日本語", "한국어", "thethe",
    "😀😀😀😀", "☃☃☃", "❤️", "👨‍👩‍👧", "e\u0301a", "!!!", "?!", "foo_bar()",
    "qxzqxz", "кот", "\ud800", "\u2581", "\x01",
    *SPECIALS,
])  # fmt: skip
seps = st.sampled_from(["", "", " ", "  ", "\n", " \n", "\u00a0", ", "])
texts = st.lists(st.tuples(words | st.text(max_size=5), seps), min_size=1, max_size=40).map(
    lambda pairs: "".join(map("".join, pairs)).replace("\0", "")
)


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=4))
def test_pieces_have_the_tokens_of_the_whole(model: Model, drawn: list[tuple[str, bool]]) -> None:
    parts: list[Text] = [LiteralText(text) if literal else text for text, literal in drawn]
    whole = tokenize_fragments(fragments(parts, model.special_tokens()), model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seams_module, "PIECE", 3)
        patch.setattr(llama_model, "PIECE", 0)
        patch.setattr(llama_model, "_LONG_FOR_BPE", 0)
        found = list(tokenize_thread._pieces(parts, model))
    assert np.concatenate(found).tolist() == whole


def test_texts_have_seams_in_every_vocabulary(model: Model) -> None:
    seams = model.seams(1 << 20)
    assert seams is not None
    assert model.seams(100) is None
    spaced, dense = "qxz jkw " * PIECE, "\U0001f600" * 4 * PIECE
    for text in [spaced] if seams.words else [spaced, dense]:
        cuts = list(seams.cuts(text))
        assert len(cuts) >= 2
        assert max(np.diff([0, *cuts, len(text)])) < 2 * PIECE
        assert "".join(str(text) for piece in split([text], seams) for text in piece) == text


def test_a_cut_is_not_where_a_token_would_be() -> None:
    seams = find_seams([b"ab", b"c\xf0\x9f", b" x"], ["<s>"], words=False)
    assert seams is not None

    def places(text: str) -> list[int]:
        return [place for place in range(1, len(text) - 1) if seams.is_seam(text, place)]

    assert places("aabb") == [1]  # not within ab; the last is no place
    assert places("c\U0001f600d\U0001f600d") == [2, 3]
    assert places("q q q") == [1, 3]  # before a space, and not after it
    assert places("q  q q") == [4]
    assert places("q<s>qq") == [1]


def test_a_vocabulary_that_is_not_known_is_not_cut() -> None:
    every = [(chr(code) + "a").encode() for code in (*range(1, 9), *range(0xE000, 0xE100))]
    assert find_seams(every, [], words=False) is None
    assert isinstance(find_seams(every[:-1], [], words=False), Seams)


def test_a_text_without_letters_of_the_vocabulary_takes_linear_time(model: Model) -> None:
    """llama.cpp alone takes minutes for it where characters become bytes."""
    text: Any = "\U0001f600" * 500_000
    assert sum(map(len, tokenize_thread._pieces([text], model))) >= 500_000
