"""GGUF headers, read without trust: from a file's bytes, whole or fetched piece by piece."""
