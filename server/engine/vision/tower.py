"""The interface between the engine and a vision tower, whichever library computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from server.engine.llama.mtmd import Rows, Span
from server.messages import ImageInput, PromptPart, VisionFacts


class Tower(Protocol):
    """A loaded vision tower with its projector. Another backend is another class with these.

    ``server.engine.vision.open_tower`` chooses the class; nothing else names one.
    """

    @property
    def whole(self) -> bool:
        """Whether the language model attends to a picture in both directions."""

    @property
    def n_sections(self) -> int:
        """Positions that an embedding has: 4 with M-RoPE, 1 otherwise."""

    @property
    def backend(self) -> str:
        """The device that it runs on: ``CPU``, ``CUDA0``, ..."""

    @property
    def batch_tokens(self) -> int:
        """Most tokens that one run of the tower gives for several pictures; 0: one by one."""

    def facts(self) -> VisionFacts:
        """What was loaded; final once ``encode_together`` was called."""

    def memory(self) -> Mapping[tuple[str, str], int]:
        """Bytes by part (``vision_encoder``, ``vision_compute``) and device, as far as known."""

    def identity(self, cache_dir: Path) -> list[object]:
        """All that decides about a picture's rows, for the folder of kept ones."""

    def tokenize(self, parts: Sequence[PromptPart]) -> list[Span]:
        """The prompt as runs of token ids and picture spans; nothing is encoded.

        Raises:
            ImageError: it cannot take one of the pictures; names its field.
        """

    def encode(self, images: Sequence[ImageInput]) -> list[Rows]:
        """Of each picture float32 [n_tokens, n_embd], as the language model was trained on.

        Raises:
            ImageError: it cannot take one of the pictures; names its field.
            RuntimeError: it failed.
        """

    def encode_together(self, n_tokens: int) -> None:
        """Has pictures of equal size encoded together, up to so many tokens, if it can."""

    def largest_picture(self) -> int:
        """Tokens of the largest picture, or of its largest tile."""

    def close(self) -> None:
        """Frees tower and projector."""
