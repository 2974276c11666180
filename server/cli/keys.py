"""``llava-server key``: makes, lists and removes API keys."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from server.errors import ConfigError
from server.settings.key_file import (
    Key,
    digest_of,
    entry_of,
    make_key,
    parse_keys,
    read_keys,
    set_hashes,
    without,
)

_VARIABLE = "LLAVA_API_KEY_FILE"


def run(options: argparse.Namespace) -> int:
    """Run the command; the returned number is the exit code."""
    file = options.file or os.environ.get(_VARIABLE)
    path = Path(file).expanduser() if file else None
    if options.name == "list":
        return _list(_needed(path))
    if options.name == "remove":
        return _remove(_needed(path), options.removed)
    if options.removed is not None:
        raise ConfigError(f"{options.removed}: one name at a time; did you mean `key remove NAME`?")
    if path is None and (options.rotate or options.replace):
        raise ConfigError("--rotate and --replace need --file, the file of keys to change")
    key = make_key()
    if path is None:
        print(entry_of(options.name, key), flush=True)
    else:
        _put(path, options.name, key, rotate=options.rotate, replace=options.replace)
    print(f"The key, shown this once: {key}", file=sys.stderr)
    return 0


def _needed(path: Path | None) -> Path:
    if path is None:
        raise ConfigError(f"name the file of keys: --file keys.toml, or {_VARIABLE}")
    return path


def _list(path: Path) -> int:
    keys = read_keys(path)
    print(f"{'NAME':<24}{'KEYS':>4}  {'RATE-LIMIT':<14} {'MAX-CONCURRENCY'}")
    for name in dict.fromkeys(key.name for key in keys):
        own = [key for key in keys if key.name == name]
        rate, most = own[0].rate or "-", own[0].concurrency or "-"
        print(f"{name:<24}{len(own):>4}  {rate:<14} {most}")
    return 0


def _remove(path: Path, name: str | None) -> int:
    if name is None:
        raise ConfigError("key remove NAME: say whose")
    if not _of(read_keys(path), name):
        raise ConfigError(f"{path} has no key of {name}")
    _write(path, without(path.read_text(encoding="utf-8"), path, name))
    _say_reload(f"{name} is removed from {path}")
    return 0


def _put(path: Path, name: str, key: str, *, rotate: bool, replace: bool) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before = [one.digest for one in _of(parse_keys(text, path), name)]
    if before and not (rotate or replace):
        raise ConfigError(
            f"{name} has a key in {path}: --rotate makes a second one and keeps the last valid,"
            " --replace makes a new one and ends the old"
        )
    kept = before[-1:] if rotate else []
    _write(path, set_hashes(text, path, name, [*kept, digest_of(key.encode())]))
    _say_reload(f"{name} is in {path}{', with the old key' if kept else ''}")


def _of(keys: Sequence[Key], name: str) -> list[Key]:
    return [key for key in keys if key.name == name]


def _say_reload(done: str) -> None:
    print(f"{done}; a running server reads it at SIGHUP", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    """Replaces the file whole: a server that reads it at that moment sees one or the other."""
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        with suppress(FileNotFoundError):
            Path(name).chmod(target.stat().st_mode & 0o777)
        Path(name).replace(target)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
