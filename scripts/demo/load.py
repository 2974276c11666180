"""Reads the two GGUF files back into PyTorch: the weights that llama.cpp really computes with."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from scripts.demo.export import NAME, language_tensors, vision_tensors
from scripts.demo.net import Decoder, Shape, Tower, build
from scripts.demo.tokenizer import SPECIAL, Tokenizer


def _tensors(reader: gguf.GGUFReader) -> dict[str, Tensor]:
    return {
        tensor.name: torch.from_numpy(
            np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        )
        for tensor in reader.tensors
    }


def _fill(net: nn.Module, names: list[str], found: dict[str, Tensor]) -> None:
    """Sets the net's parameters, in the order of the exporter's names."""
    for name, weight in zip(names, _ordered(net), strict=True):
        weight.data.copy_(found[name].reshape(weight.shape))


def _ordered(net: nn.Module) -> list[nn.Parameter]:
    """Parameters in the order in which the exporter lists them."""
    if isinstance(net, Tower):
        first = [net.class_row, net.patch.weight, net.positions, net.pre.weight, net.pre.bias]
        last = [net.mm0.weight, net.mm0.bias, net.mm2.weight, net.mm2.bias]
        return [*first, *net.blocks.parameters(), *last]
    assert isinstance(net, Decoder)
    return [net.embedding.weight, net.norm.weight, net.output.weight, *net.blocks.parameters()]


def read_pair(folder: Path) -> tuple[Tower, Decoder, Tokenizer]:
    """The tower, the decoder and the tokenizer of the files in a folder."""
    language = gguf.GGUFReader(folder / f"{NAME}-q8_0.gguf")
    vision = gguf.GGUFReader(folder / f"{NAME}-mmproj-f16.gguf")
    pieces = [str(piece) for piece in language.fields["tokenizer.ggml.tokens"].contents()]
    singles = len(Tokenizer([]).pieces)
    assert pieces[: len(SPECIAL)] == list(SPECIAL)
    tokenizer = Tokenizer(pieces[singles:])
    tower, decoder = build(Shape(vocabulary=len(pieces)))
    _fill(tower, list(vision_tensors(tower)), _tensors(vision))
    _fill(decoder, list(language_tensors(decoder)), _tensors(language))
    return tower.eval(), decoder.eval(), tokenizer
