"""``llava-server plan``."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from server.cache_types import CACHE_TYPES
from server.cli.plan.machine import described, this_machine
from server.cli.plan.measured import key_of, show
from server.cli.plan.model import Subject, find_subject, quantizations
from server.cli.plan.outcome import Asked, choose, work_out
from server.cli.plan.report import as_json, report
from server.errors import ConfigError, StartupError
from server.memory.estimate.inputs import PlanSettings
from server.messages import DeviceMemory, MemoryWishes

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS_2: Final = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?$", re.IGNORECASE)
_MOST_CELLS: Final = 1 << 24


def size(text: str) -> int:
    """``24GiB``, ``24G`` (of 1000) or a number of bytes."""
    found = _SIZE.match(text.strip())
    if found is None or len(found[1]) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 24GiB or 24000MB")
    unit = found[2].lower()
    return int(float(found[1]) * (_UNITS_2 | _UNITS)[unit])


def count(least: int, most: int) -> Any:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
        return int(text)

    return parse


def count_or(least: int, most: int, **words: int | None) -> Any:
    """A whole number within bounds, or one of some words."""
    number = count(least, most)

    def parse(text: str) -> int | None:
        return words[text] if text in words else number(text)

    return parse


def _shares(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in re.split("[,/]", text))
    except ValueError:
        found = ()
    if not found or not all(0 <= share < 1e9 for share in found) or not any(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of shares; write 3,1")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser MODEL and all flags."""
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="as for serve: a file, a name or hf:OWNER/REPO")
    add("--mmproj", type=Path, metavar="FILE", help="vision tower (default: the model's own)")
    _add_shape(parser)
    _add_places(parser)
    text = "plan for a GPU of this size instead of this machine; repeat it for several"
    add("--device-memory", type=size, action="append", metavar="SIZE", help=text)
    add("--ram", type=size, metavar="SIZE", help="the RAM of that machine (default: enough)")
    text = "bytes of each device that stay free (default: 512MiB, at most an eighth)"
    add("--memory-margin", type=size, metavar="SIZE", help=text)
    add("--offline", action="store_true", help="ask only what is on this machine")
    text = "show what a running server takes, beside what was planned for it"
    add("--measured", action="store_true", help=text)
    text = "that server (default: http://127.0.0.1:8000)"
    add("--url", default="http://127.0.0.1:8000", metavar="URL", help=text)
    add("--api-key", metavar="KEY", help="its key (default: LLAVA_API_KEY)")
    add("--json", action="store_true", help="print the plan for programs")
    flags = (flag for action in parser._actions for flag in action.option_strings)
    parser.set_defaults(known_flags=tuple(flag for flag in flags if flag.startswith("--")))


def _add_shape(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--ctx-size", type=count_or(0, _MOST_CELLS, auto=None), metavar="TOKENS|auto")
    add("-np", "--parallel", type=count_or(1, 255, auto=None), metavar="N|auto")
    add("-b", "--batch-size", type=count(1, 1 << 16), default=512, metavar="TOKENS")
    add("-ub", "--ubatch-size", type=count(1, 1 << 16), default=512, metavar="TOKENS")
    kinds = ("auto", *sorted(CACHE_TYPES))
    add("-ctk", "--cache-type-k", choices=kinds, default="auto", metavar="TYPE")
    add("-ctv", "--cache-type-v", choices=kinds, default="auto", metavar="TYPE")
    add("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto")
    add("--image-size", type=count(14, 1 << 14), metavar="PIXELS")
    add("--image-max-tokens", type=count(1, 1 << 20), metavar="TOKENS")
    add("--image-cache-bytes", type=size, default=256 << 20, metavar="SIZE")
    add("-cram", "--cache-ram", type=count_or(0, 1 << 30, auto=None), metavar="MIB|auto")


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-ngl", "--n-gpu-layers", type=count_or(0, 1024, auto=None, all=-1), metavar="N|auto|all")
    add("--mmproj-offload", choices=("auto", "gpu", "cpu"), default="auto")
    add("-sm", "--split-mode", choices=("layer", "none"), default="layer")
    add("-ts", "--tensor-split", type=_shares, default=(), metavar="N0,N1,...")
    add("-mg", "--main-gpu", type=count(0, 63), metavar="INDEX")


def devices_of(options: argparse.Namespace) -> tuple[DeviceMemory, ...]:
    """The devices that the flags describe, or those of this machine."""
    if options.device_memory is None and options.ram is None:
        return this_machine()
    return described(options.device_memory or (), options.ram)


def asked_of(options: argparse.Namespace) -> Asked:
    """The flags in the words of the fit."""
    attention = {"on": True, "off": False, "auto": None}[options.flash_attn]
    wishes = MemoryWishes(
        margin=options.memory_margin,
        n_gpu_layers=options.n_gpu_layers,
        mmproj_offload={"gpu": True, "cpu": False, "auto": None}[options.mmproj_offload],
        cache_type_k=None if options.cache_type_k == "auto" else options.cache_type_k,
        cache_type_v=None if options.cache_type_v == "auto" else options.cache_type_v,
        flash_attn=attention,
        split_mode=options.split_mode,
        main_gpu=options.main_gpu,
        tensor_split=options.tensor_split,
    )
    base = PlanSettings(
        devices=(),
        n_batch=options.batch_size,
        n_ubatch=min(options.ubatch_size, options.batch_size),
        flash_attn=attention is not False,
        image_size=options.image_size,
        image_max_tokens=options.image_max_tokens,
        image_cache_bytes=options.image_cache_bytes,
        prompt_cache_bytes=None if options.cache_ram is None else options.cache_ram << 20,
    )
    return Asked(wishes, options.ctx_size, options.parallel, base)


_WHOLE = {"auto", "f32", "f16", "bf16"}


def run(options: argparse.Namespace) -> int:
    """Plans, and prints it; 0 if it fits, 3 if it does not. Or shows what a server measured.

    Raises:
        StartupError: the model or the machine cannot be read.
        ConfigError: a flag makes no sense.
    """
    if options.measured:
        return show(options.url, key_of(options.api_key), as_json=options.json)
    if options.model is None:
        raise ConfigError("plan: name a MODEL, for example `llava-server plan demo`")
    if options.flash_attn == "off" and options.cache_type_v not in _WHOLE:
        raise ConfigError("--cache-type-v: quantized values need flash attention")
    if (options.parallel or 1) >= options.batch_size:
        raise ConfigError("--parallel: must be less than --batch-size")
    devices = devices_of(options)
    subject = find_subject(options.model, options.mmproj, offline=options.offline)
    chosen = choose(subject, asked_of(options), devices)
    outcome = work_out(subject, chosen, _files(subject, offline=options.offline))
    if options.json:
        print(json.dumps(as_json(outcome), indent=2))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        print("\n".join(report(outcome, width)))
    return 0 if outcome.fits else 3


def _files(subject: Subject, *, offline: bool) -> dict[str, int]:
    """The other quantizations; that they cannot be listed is no reason to plan nothing."""
    try:
        return quantizations(subject, offline=offline)
    except StartupError as error:
        print(f"llava-server: other quantizations are not known: {error.message}", file=sys.stderr)
        return {}
