"""Trains the demo LLaVA from nothing on two CPU cores and writes its GGUF files.

    pip install torch numpy pillow gguf font-roboto font-lato font-caladea font-manrope \\
        font-source-sans-pro font-source-serif-pro font-hanken-grotesk
    python -m scripts.train_demo_model --minutes 110 --out models/demo

Two phases. First, side by side in two processes: the tower learns to see (everything in a drawn
picture is known, so each projected patch is trained towards a fixed code of what it shows), and
the decoder learns to talk, about such codes and about what the ever better tower makes of
pictures. Then both are trained end to end on questions. Every phase ends by the clock, on any
machine. All fonts of /usr/share/fonts with a known Latin name are used, too: install some.
"""

from __future__ import annotations

import argparse
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import torch

from scripts.demo import export, fixture, pool
from scripts.demo.conversation import Packer
from scripts.demo.corpus import make_tokenizer
from scripts.demo.language import Eyes, Language
from scripts.demo.net import Shape, build
from scripts.demo.optim import Clock
from scripts.demo.practice import Sheets, write_sheets
from scripts.demo.sight import Library, Sight
from scripts.demo.together import Together
from scripts.demo.tokenizer import Tokenizer

APART = 0.86  # share of the time in which tower and decoder learn side by side
APART_RATE = 1.5e-3
TOGETHER_RATE = 6e-4
SHEET_SHARDS = 48


def see(work: Path, minutes: float, threads: int) -> None:
    """The tower's process."""
    torch.set_num_threads(threads)
    tower, _ = build(Shape(vocabulary=1))
    check = [pool.held_out(112, 200), pool.held_out(84, 150)]
    library, sheets = Library(work / "pool", seed=1), Sheets(work / "sheets", seed=1)
    sight = Sight(tower, library, sheets, check, work / "tower.pt", APART_RATE)
    sight.run(Clock(minutes, last=0.1))


def talk(work: Path, tokenizer: Tokenizer, minutes: float, threads: int) -> None:
    """The decoder's part."""
    torch.set_num_threads(threads)
    tower, decoder = build(Shape(vocabulary=len(tokenizer.pieces)))
    packer, library = Packer(tokenizer, Random(2)), Library(work / "pool", seed=2)
    eyes = Eyes(tower, work / "tower.pt")
    language = Language(decoder, packer, library, eyes, work / "decoder.pt", APART_RATE)
    language.run(Clock(minutes, last=0.1))


def answer(work: Path, tokenizer: Tokenizer, minutes: float, threads: int) -> Together:
    """Tower and decoder together."""
    torch.set_num_threads(threads)
    tower, decoder = build(Shape(vocabulary=len(tokenizer.pieces)))
    tower.load_state_dict(torch.load(work / "tower.pt"))
    decoder.load_state_dict(torch.load(work / "decoder.pt")["decoder"])
    check = {str(side): pool.held_out(side, 160) for side in (112, 84)}
    check["112 pooled"] = check["112"]
    together = Together(
        tower=tower,
        decoder=decoder,
        packer=Packer(tokenizer, Random(3)),
        library=Library(work / "pool", seed=3),
        sheets=Sheets(work / "sheets", seed=3),
        check=check,
        out=work / "together.pt",
        rate=TOGETHER_RATE,
    )
    together.run(Clock(minutes, decay_from=0.2))
    return together


def draw(work: Path) -> list[BaseProcess]:
    """Processes that draw practice sheets and ever more scenes while the nets learn."""
    spawn = get_context("spawn")
    folder = work / "sheets"
    sheets = spawn.Process(target=write_sheets, args=(folder, SHEET_SHARDS), daemon=True)
    sheets.start()
    scenes = pool.start_filling(work / "pool", at_once=24_000, per_second=15, most=120_000)
    return [sheets, scenes]


def train(options: argparse.Namespace) -> None:
    """All phases, one after the other."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    drawing = draw(work)
    tokenizer = make_tokenizer()
    apart, half = options.minutes * APART, max(1, options.threads // 2)
    seeing = get_context("spawn").Process(target=see, args=(work, apart, half))
    seeing.start()
    talk(work, tokenizer, apart, half)
    seeing.join()
    done = answer(work, tokenizer, options.minutes - apart, options.threads)
    for process in drawing:
        process.terminate()
    done.report()
    export.write_pair(done.tower, done.decoder, tokenizer, options.out)
    fixture.write(options.out, options.fixture)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains the demo LLaVA and writes its GGUFs.")
    parser.add_argument("--minutes", type=float, default=110)
    parser.add_argument("--out", type=Path, default=Path("models/demo"))
    parser.add_argument("--fixture", type=Path, default=Path("tests/fixtures/demo"))
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="scratch folder")
    parser.add_argument("--threads", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
