"""Typed looks into the metadata of an mmproj file."""

from __future__ import annotations

from typing import Any, Final

from server.errors import StartupError
from server.towers import layout
from server.towers.gguf_file import GGUFFile

MAX_EDGE: Final = 1 << 14


class Keys:
    """The keys of one file; a wrong type or an absurd value is a StartupError."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file

    def _value(self, key: str) -> Any:
        entry = self._file.metadata.get(key)
        return None if entry is None else entry.value

    def _refuse(self, key: str, value: object) -> StartupError:
        what = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return StartupError(
            f"{self._file.path} is no mmproj that llama.cpp can load: {key} {what};"
            " use the mmproj GGUF that was published with the model"
        )

    def count(self, key: str, most: int, *, least: int = 1) -> int:
        """A required whole number from ``least`` to ``most``."""
        value = self._value(key)
        if type(value) is not int or not least <= value <= most:
            raise self._refuse(key, value)
        return value

    def flag(self, key: str) -> bool:
        """Whether the key is there and true."""
        return self._value(key) is True

    def text(self, key: str) -> str:
        """A text, empty where there is none."""
        value = self._value(key)
        return value if isinstance(value, str) else ""

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers, empty where there is none."""
        value = self._value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self._refuse(key, value)
        return value

    def three(self, key: str) -> tuple[float, float, float]:
        """A required list, one number for each colour."""
        value = self._value(key)
        if not isinstance(value, list) or len(value) < 3:
            raise self._refuse(key, value)
        if not all(type(item) is float and abs(item) < 1e3 for item in value):
            raise self._refuse(key, value)
        return value[0], value[1], value[2]

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        """A flat list of edges in pixels as (width, height)."""
        value = self.integers(key)
        if len(value) % 2 or not all(0 < edge <= MAX_EDGE for edge in value):
            raise self._refuse(key, value)
        return tuple(zip(value[::2], value[1::2], strict=True))

    def projector(self) -> str:
        """The projector type, under either key."""
        name = self.text(layout.PROJECTOR_TYPE) or self.text(layout.VISION_PROJECTOR_TYPE)
        if not name:
            raise self._refuse(layout.PROJECTOR_TYPE, None)
        # libmtmd tells Yi's projector by its tensors (clip.cpp).
        return "mlp_norm" if name == "mlp" and "mm.3.weight" in self._file.tensors else name

    def activation(self) -> str:
        """``gelu``, ``silu`` or ``quick_gelu``, libmtmd's choice where nothing is said."""
        if self.flag(layout.USE_GELU):
            return "gelu"
        return "silu" if self.flag(layout.USE_SILU) else "quick_gelu"

    def last_dimension(self, name: str | None) -> int:
        """The slowest dimension of a tensor, 0 where there is none."""
        tensor = self._file.tensors.get(name) if name else None
        return tensor.shape[-1] if tensor and tensor.shape else 0
