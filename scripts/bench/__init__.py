"""Measures servers side by side: ours, llama.cpp's llama-server, llama-cpp-python's example."""
