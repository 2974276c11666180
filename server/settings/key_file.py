"""The file of API keys: a TOML table for each, with its name and its hash, never the key itself.

    [alice]
    hash = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    rate-limit = "60/minute"    # these two are optional, and beat --rate-limit and
    max-concurrency = 4         # --key-concurrency

A plain SHA-256 is enough because keys are no passwords: those that ``llava-server key`` makes hold
256 random bits, which nobody can try out.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tomli
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import ConfigError
from server.settings.types import Positive, Rate

PREFIX = "llava-"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ALGORITHM = "sha256:"


@dataclass(slots=True, frozen=True)
class Key:
    """Somebody who may enter: a name for the logs, and the SHA-256 of the key.

    ``rate`` and ``concurrency`` are this key's own limits; None leaves it to the server's.
    """

    name: str
    digest: bytes
    rate: str | None = None
    concurrency: int | None = None


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-fA-F]{64}$")]
    rate_limit: Annotated[Rate | None, Field(alias="rate-limit")] = None
    max_concurrency: Annotated[Positive | None, Field(alias="max-concurrency")] = None


def digest_of(key: bytes) -> bytes:
    """What is kept of a key, and compared."""
    return hashlib.sha256(key).digest()


def make_key() -> str:
    """A new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def entry_of(name: str, key: str) -> str:
    """The lines that let a key in.

    Raises:
        ConfigError: the name would not do as a TOML key.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a key's name is 1 to 64 letters, digits, - and _")
    return f'[{name}]\nhash = "{_ALGORITHM}{digest_of(key.encode()).hex()}"\n'


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; the message names it.
    """
    try:
        tables: Mapping[str, Any] = tomli.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--api-key-file: cannot read {path}: {error.strerror}") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--api-key-file: {path} is not valid TOML ({error}); `llava-server key` writes entries"
        ) from None
    return tuple(_key(path, name, table) for name, table in tables.items())


def _key(path: Path, name: str, table: Any) -> Key:
    if not NAME.fullmatch(name):
        raise ConfigError(f"--api-key-file: {path}: {name!r} is no name for a key")
    try:
        read = _Table.model_validate(table)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, (name, *fault["loc"])))
        raise ConfigError(f"--api-key-file: {path}: {where}: {fault['msg']}") from None
    digest = bytes.fromhex(read.hash.removeprefix(_ALGORITHM))
    return Key(name, digest, read.rate_limit, read.max_concurrency)
