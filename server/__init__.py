"""llava-server: a multimodal inference server that wraps llama.cpp."""

__version__ = "0.1.0"
