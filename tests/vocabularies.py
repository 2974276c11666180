"""Models of a vocabulary alone: bytes, and the control tokens of a family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from gguf import GGUFWriter, TokenType

from server.engine.llama import model as bindings
from server.engine.llama.model import Model

# A tokenizer, and the control tokens of a family that has it; some hold what JSON escapes.
VOCABULARIES: dict[str, tuple[str, str, list[str]]] = {
    "llama-2": ("llama", "default", ["<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>"]),
    "gemma": ("llama", "default", ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", '<|"|>']),
    "qwen": (
        "gpt2",
        "qwen2",
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>"],
    ),
    "llama-3": (
        "gpt2",
        "llama-bpe",
        ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    ),
    "mistral": (
        "gpt2",
        "tekken",
        ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[A\\B]", "[\n]", "[é]"],
    ),
}


def byte_tokens(kind: str) -> list[str]:
    if kind == "llama":
        return [f"<0x{byte:02X}>" for byte in range(256)]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def write_vocabulary(path: Path, kind: str, pre: str, specials: list[str]) -> None:
    """A GGUF with a vocabulary of bytes and control tokens, and without weights."""
    writer = GGUFWriter(path, "llama")
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_head_count):
        add(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_layer_norm_rms_eps(1e-5)
    pieces = byte_tokens(kind)
    usual = TokenType.BYTE if kind == "llama" else TokenType.NORMAL
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["<unk>", *pieces, *specials])
    types = [TokenType.UNKNOWN] + [usual] * 256 + [TokenType.CONTROL] * len(specials)
    writer.add_token_types(types)
    if kind == "llama":
        writer.add_token_scores([0.0] * len(types))
    else:
        writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def open_vocabulary(name: str, folder: Path) -> Model:
    """One of VOCABULARIES, loaded by llama.cpp."""
    path = folder / f"{name}.gguf"
    write_vocabulary(path, *VOCABULARIES[name])
    ordinary = bindings._parameters

    def vocabulary_only(*args: Any) -> llama_cpp.llama_model_params:
        params = ordinary(*args)
        params.vocab_only = True
        return params

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bindings, "_parameters", vocabulary_only)
        loaded = Model(path, 0)
    assert set(VOCABULARIES[name][2]) <= loaded.special_tokens().keys()
    return loaded
