"""``python -m scripts.gpu_check [pack|build|measure]``; without a verb it measures here."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import scripts.gpu_check as package
from scripts.gpu_check.build import Place, build, check
from scripts.setup.run import SetupError

SHAPES = ("llava-1.5-7b", "llava-1.5-13b")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_check",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    pack = verbs.add_parser("pack", help="gather source and wheels in .gpu/")
    pack.add_argument("--python", default="3.12", help="the GPU machine's (default: 3.12)")
    for name in ("build", "measure"):
        verb = verbs.add_parser(name)
        verb.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "llava-gpu")
        verb.add_argument("--out", type=Path, default=Path(), help="where results go")
        if name == "build":
            text = "further options of CMake (default: CUDA for the card that is here)"
            verb.add_argument("--cmake", action="append", metavar="-D...", help=text)
        else:
            _measuring(verb)
    _measuring(parser)
    parser.set_defaults(work=None, out=Path())
    return parser


def _measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of scripts.synthetic, commas")
    parser.add_argument("--quant", default="q4_k")
    parser.add_argument("--layers", default="auto", help="--n-gpu-layers of both servers")
    parser.add_argument("--quick", action="store_true", help="a third of the requests")


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the verb says; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "pack":
            from scripts.gpu_check.pack import pack  # noqa: PLC0415

            pack(options.python)
        elif options.verb == "build":
            wanted = options.cmake or ["-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"]
            build(Place(options.work), wanted, options.out)
        else:
            return _measure(options)
    except SetupError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(options: argparse.Namespace) -> int:
    place = Place(options.work) if options.work else None
    if place is not None and str(place.site) not in os.environ.get("PYTHONPATH", ""):
        check(place)
        _again_with(place)
    from scripts.bench import machine  # noqa: PLC0415
    from scripts.gpu_check import report  # noqa: PLC0415
    from scripts.gpu_check.measure import measure, pair  # noqa: PLC0415
    from scripts.llama_server import find_or_build  # noqa: PLC0415

    program = place.program if place else find_or_build()
    folder = (place.work if place else Path(tempfile.gettempdir())) / "models"
    shapes = []
    for name in options.shapes.split(","):
        files = pair(name, options.quant, folder)
        shapes.append(measure(name, files, program, layers=options.layers, quick=options.quick))
        report.write(shapes, machine.facts(), options.out)
    print("\n".join(report.lines(shapes)))
    return 0


def _again_with(place: Place) -> None:
    """Replaces this process by one that imports what was built."""
    path = os.pathsep.join(filter(None, [str(place.site), os.environ.get("PYTHONPATH", "")]))
    os.execve(  # noqa: S606
        sys.executable,
        [sys.executable, "-m", "scripts.gpu_check", *sys.argv[1:]],
        {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    )


if __name__ == "__main__":
    sys.exit(main())
