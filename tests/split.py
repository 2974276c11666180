"""A GGUF file divided as llama-gguf-split does it: the first part has the metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf_files import copy_metadata, finish


def split(path: Path, count: int) -> dict[str, bytes]:
    """The parts of a file by name, all of its tensors spread over them in order."""
    reader = GGUFReader(path)
    share = -(-len(reader.tensors) // count)
    parts = {}
    for index in range(count):
        name = f"{path.stem}-{index + 1:05}-of-{count:05}.gguf"
        target = path.with_name(name)
        writer = GGUFWriter(target, "llama")
        if index == 0:
            copy_metadata(reader, writer)
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[index * share : (index + 1) * share]:
            data = np.asarray(tensor.data)
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
        finish(writer)
        parts[name] = target.read_bytes()
    return parts
