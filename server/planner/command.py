"""``llava-server plan``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from server.errors import ConfigError, StartupError
from server.planner.arguments import asked_of, devices_of
from server.planner.as_json import as_json
from server.planner.fitting import choose
from server.planner.measured import key_of, show
from server.planner.outcome import work_out
from server.planner.subject import Subject, find_subject, quantizations
from server.planner.text import report

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
