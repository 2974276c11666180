"""The engine process: the only one that loads llama.cpp."""
