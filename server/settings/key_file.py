"""The file of API keys: a TOML table for each name, with the key's hash, never the key itself.

    [alice]
    hash = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    rate-limit = "60/minute"    # these two are optional, and beat --rate-limit and
    max-concurrency = 4         # --key-concurrency

``hash`` may be a list of two: the old key and the new one, while clients change over. A plain
SHA-256 is enough because keys are no passwords: those that ``llava-server key`` makes hold 256
random bits, too many to try.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tomli
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.errors import ConfigError
from server.settings.parser import did_you_mean
from server.settings.types import Positive, Rate

PREFIX = "llava-"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ALGORITHM = "sha256:"
_ENTRIES = "hash", "rate-limit", "max-concurrency"
_HASH = re.compile(r"(?m)^hash *= *(\"[^\"\n]*\"|\[[^\]]*\])")


@dataclass(slots=True, frozen=True)
class Key:
    """A key that opens the server: a name for the logs, and the SHA-256 of the key.

    ``rate`` and ``concurrency`` are this key's own limits; None leaves it to the server's.
    """

    name: str
    digest: bytes
    rate: str | None = None
    concurrency: int | None = None


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    hash: Annotated[
        tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-fA-F]{64}$")], ...],
        BeforeValidator(lambda given: given if isinstance(given, list) else [given]),
        Field(min_length=1, max_length=2),
    ]
    rate_limit: Annotated[Rate | None, Field(alias="rate-limit")] = None
    max_concurrency: Annotated[Positive | None, Field(alias="max-concurrency")] = None


def digest_of(key: bytes) -> bytes:
    """What is kept of a key, and compared."""
    return hashlib.sha256(key).digest()


def make_key() -> str:
    """A new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def entry_of(name: str, *keys: str) -> str:
    """The lines that let a key in, or an old and a new one.

    Raises:
        ConfigError: the name would not do as a TOML key.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a key's name is 1 to 64 letters, digits, - and _")
    return f"[{name}]\n{_hash_line([digest_of(key.encode()) for key in keys])}\n"


def _hash_line(digests: Sequence[bytes]) -> str:
    hashes = [f'"{_ALGORITHM}{digest.hex()}"' for digest in digests]
    return f"hash = {hashes[0] if len(hashes) == 1 else '[' + ', '.join(hashes) + ']'}"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file; a name with two hashes is two keys.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--api-key-file: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _no_toml(path, error) from None
    return parse_keys(text, path)


def parse_keys(text: str, path: Path) -> tuple[Key, ...]:
    """The keys of a file's text. Raises ConfigError as ``read_keys`` does."""
    try:
        tables: Mapping[str, Any] = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise _no_toml(path, error) from None
    keys = tuple(key for name, table in tables.items() for key in _keys(path, name, table))
    if len({key.digest for key in keys}) < len(keys):
        raise ConfigError(f"--api-key-file: {path}: the same hash stands there twice")
    return keys


def _no_toml(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"--api-key-file: {path} is not valid TOML ({error}); `llava-server key` writes entries"
    )


def _keys(path: Path, name: str, table: Any) -> Iterator[Key]:
    if not NAME.fullmatch(name):
        raise ConfigError(f"--api-key-file: {path}: {name!r} is no name for a key")
    try:
        read = _Table.model_validate(table)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join((name, *(part for part in fault["loc"] if isinstance(part, str))))
        what = fault["msg"]
        if fault["type"] == "extra_forbidden":
            what = f"no such entry{did_you_mean(str(fault['loc'][0]), _ENTRIES)}"
        raise ConfigError(f"--api-key-file: {path}: {where}: {what}") from None
    for one in read.hash:
        digest = bytes.fromhex(one.removeprefix(_ALGORITHM))
        yield Key(name, digest, read.rate_limit, read.max_concurrency)


def set_hashes(text: str, path: Path, name: str, digests: Sequence[bytes]) -> str:
    """The file's text with these hashes for a name, which is added if it is new; all else stays.

    Raises:
        ConfigError: the entry is written in a way that this cannot change.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a key's name is 1 to 64 letters, digits, - and _")
    line, table = _hash_line(digests), _table(text, name)
    if table is None:
        gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        changed = f"{text}{gap}[{name}]\n{line}\n"
    else:
        entry, count = _HASH.subn(line, table[0], count=1)
        changed = text[: table.start()] + entry + text[table.end() :] if count else text
    return _checked(changed, path, name, list(digests))


def without(text: str, path: Path, name: str) -> str:
    """The file's text without a name. Raises ConfigError as ``set_hashes`` does."""
    table = _table(text, name)
    changed = text[: table.start()] + text[table.end() :] if table else text
    return _checked(changed, path, name, [])


def _table(text: str, name: str) -> re.Match[str] | None:
    return re.search(rf"(?ms)^\[{re.escape(name)}\][^\n]*\n.*?(?=^\[|\Z)", text)


def _checked(text: str, path: Path, name: str, digests: list[bytes]) -> str:
    try:
        found = [key.digest for key in parse_keys(text, path) if key.name == name]
    except ConfigError:
        found = None
    if found != digests:
        raise ConfigError(f"{path}: the entry of {name} cannot be changed here; edit the file")
    return text
