"""``llava-server plan``: the flags of ``serve`` that decide over memory, and what is its own."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ByteSize, TypeAdapter, ValidationError

from server.cli.plan.machine import described, this_machine
from server.cli.plan.measured import show
from server.cli.plan.model import Subject, find_subject, other_files
from server.cli.plan.outcome import choose, work_out
from server.cli.plan.report import as_json, report
from server.errors import ConfigError, StartupError
from server.messages import DeviceMemory
from server.settings.command_line import add_settings, load_settings
from server.settings.engine_config import engine_config
from server.settings.settings import Settings
from server.sizes import MIB

# The settings that decide over memory, or over which files are planned.
PLANNED: Final = (
    *("config", "model", "mmproj", "offline", "api_key"),
    *("ctx_size", "parallel", "batch_size", "ubatch_size", "cache_ram"),
    *("fit", "memory_margin", "n_gpu_layers", "mmproj_offload", "cache_type_k", "cache_type_v"),
    *("flash_attn", "rpc", "device", "split_mode", "tensor_split", "main_gpu"),
    *("image_size", "image_max_edge", "image_min_tokens", "image_max_tokens"),
    *("image_cache_bytes", "mtmd_batch_max_tokens"),
)
_SIZE: Final = TypeAdapter(ByteSize)
_LEAST: Final = 64 * MIB


def size(text: str) -> int:
    """``24GiB``, ``24G`` (of 1000) or a number of bytes; a small number lacks its unit."""
    plain = re.sub(r"(?i)(?<=[kmgt]i)$", "B", text.strip())  # Kubernetes writes 24Gi
    try:
        found = int(_SIZE.validate_python(plain))
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 24GiB or 24000MB") from None
    if found < _LEAST and plain.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} bytes; did you mean {text}GiB?")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser MODEL and all flags."""
    text = "a file, a name or hf:OWNER/REPO, as for serve (default: demo)"
    parser.add_argument("model", metavar="MODEL", nargs="?", default=argparse.SUPPRESS, help=text)
    add = parser.add_argument_group("Machine").add_argument
    text = (
        "plan for a GPU of this size instead of this machine; repeat it for several. A card sold"
        " as 24 GB has 24GiB: 24GB is 24 billion bytes, 22.4GiB"
    )
    add("--device-memory", type=size, action="append", metavar="SIZE", help=text)
    add("--ram", type=size, metavar="SIZE", help="the RAM of that machine (default: enough)")
    add = parser.add_argument_group("Output").add_argument
    add("--json", action="store_true", help="print the plan for programs")
    text = "show what a running server takes, beside what was planned for it"
    add("--measured", action="store_true", help=text)
    text = "that server (default: http://127.0.0.1:8000)"
    add("--url", default="http://127.0.0.1:8000", metavar="URL", help=text)
    add_settings(parser, PLANNED)
    flags = (flag for action in parser._actions for flag in action.option_strings)
    parser.set_defaults(known_flags=tuple(flag for flag in flags if flag.startswith("--")))


def devices_of(options: argparse.Namespace, rpc: Sequence[str] = ()) -> tuple[DeviceMemory, ...]:
    """The devices that the flags describe, or those of this machine and of rpc-servers.

    Raises ConfigError where both are asked for.
    """
    if options.device_memory is None and options.ram is None:
        return this_machine(rpc)
    if rpc:
        raise ConfigError("--rpc: --device-memory and --ram describe another machine; leave it out")
    return described(options.device_memory or (), options.ram)


def run(options: argparse.Namespace) -> int:
    """Plans, and prints it; 0 if it fits, 3 if it does not. Or shows what a server measured.

    Raises:
        StartupError: the model or the machine cannot be read.
        ConfigError: a flag makes no sense.
    """
    settings = load_settings(vars(options))
    if options.measured:
        key = settings.api_key[0].get_secret_value() if settings.api_key else None
        return show(options.url, key, as_json=options.json)
    devices = devices_of(options, settings.rpc)
    subject = find_subject(settings)
    config = engine_config(settings, Path(subject.file or settings.model), settings.mmproj)
    chosen = choose(subject.headers, config, devices)
    outcome = work_out(subject, chosen, _other_files(subject, settings))
    if options.json:
        print(json.dumps(as_json(outcome), indent=2))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        print("\n".join(report(outcome, width)))
    return 0 if outcome.fits else 3


def _other_files(subject: Subject, settings: Settings) -> dict[str, int]:
    """The other quantizations; that they cannot be listed is no reason to plan nothing."""
    try:
        return other_files(subject, settings)
    except StartupError as error:
        print(f"llava-server: other quantizations are not known: {error.message}", file=sys.stderr)
        return {}
