"""Another type for a language model's matrices, every key and all other tensors as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize


def requantize(source: Path, target: Path, kind: GGMLQuantizationType) -> None:
    """Writes ``target``: what ``source`` has in blocks, in blocks of ``kind``."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            _copy(writer, name, field)
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16}
    for tensor in reader.tensors:
        if tensor.tensor_type in plain:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            numbers = dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy(writer: GGUFWriter, name: str, field: Any) -> None:
    kind, *inner = field.types
    value = field.contents()
    sub_type = inner[-1] if kind is GGUFValueType.ARRAY else None
    writer.add_key_value(name, value, kind, sub_type=sub_type)
