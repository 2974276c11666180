"""The command line's parser: faults are one line, with a guess at what was meant.

It imports neither pydantic nor the settings, so that ``--version`` and ``--help`` are quick.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Iterable
from typing import Any, NoReturn

from server.errors import ConfigError

# What other programs call it, where no spelling of ours is close.
_OTHER_NAMES = {
    "--gpu": "--n-gpu-layers",
    "--gpus": "--n-gpu-layers",
    "--gpu-layers": "--n-gpu-layers",
    "--context": "--ctx-size",
    "--context-length": "--ctx-size",
    "--max-model-len": "--ctx-size",
    "--max-num-seqs": "--parallel",
    "--projector": "--mmproj",
    "--served-model-name": "--alias",
    "--path": "--model",
    "--listen": "--host",
    "--bind": "--host",
    "--token": "--api-key",
    "--debug": "--log-level",
}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Flags and texts side by side, as far as the terminal is wide."""

    def __init__(self, prog: str) -> None:
        width = max(60, min(shutil.get_terminal_size().columns, 120) - 2)
        super().__init__(prog, max_help_position=34, width=width)


class Parser(argparse.ArgumentParser):
    """An argument parser that fails with one line and says what was probably meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage; the caller prints one line."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and name the closest flag where one is unknown."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            known = getattr(parsed, "known_flags", ())
            raise ConfigError(f"unknown argument {rest[0]}{did_you_mean(rest[0], known)}")
        return parsed


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error, or nothing."""
    word, names = word.partition("=")[0], list(known)
    other = _OTHER_NAMES.get(word)
    if other in names:
        return f"; did you mean {other}?"
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
