"""A GGUF file divided as llama-gguf-split does it: the first part has the metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter


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
            for field in reader.fields.values():
                if field.name.startswith("GGUF.") or field.name == "general.architecture":
                    continue
                kind = field.types[0]
                item = field.types[-1] if kind == GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, item)
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[index * share : (index + 1) * share]:
            data = np.asarray(tensor.data)
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        parts[name] = target.read_bytes()
    return parts
