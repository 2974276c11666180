"""llava-server: a multimodal inference server that wraps llama.cpp."""

from __future__ import annotations

__version__ = "0.1.0"
