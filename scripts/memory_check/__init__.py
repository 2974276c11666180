"""The plan against llama.cpp: what was predicted, what was allocated, and the error."""
