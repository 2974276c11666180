"""Builds for a GPU and measures there: memory planned and taken, speed beside llama-server's.

On a machine with a GPU, a compiler for it and the internet, one command does all of it:

    make setup BACKEND=cuda && .venv/bin/python -m scripts.gpu_check

A machine without the internet gets everything in one folder, and runs two calls:

    python -m scripts.gpu_check pack                      # here: source and wheels into .gpu/
    python3 -m scripts.gpu_check build --out "$OUT"       # there: llama.cpp with CUDA
    python3 -m scripts.gpu_check measure --out "$OUT"     # there: table and JSON

``build`` leaves what it made in --work, and as parts of at most 15 MiB in --out: carried back in
``.gpu/``, they spare the next machine the build.
"""
