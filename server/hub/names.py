"""The names of repositories on the Hub: ``hf:OWNER/REPOSITORY[@REVISION][:QUANT]`` and URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from server.errors import ConfigError

_PREFIX: Final = re.compile(r"hf:(?://)?", re.IGNORECASE)
_URL: Final = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_PART: Final = r"[A-Za-z0-9](?:[\w.-]{0,94}[\w])?"
_NAME: Final = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+))?(?::(.+))?", re.ASCII)
_PAGE: Final = re.compile(r"([^/]+/[^/]+)(?:/(tree|blob|resolve|raw)/([^/]+)(?:/(.+))?)?")


@dataclass(slots=True, frozen=True)
class RepositoryName:
    """``selector`` is a quantization or a file; ``revision`` a branch, a tag or a commit."""

    repo: str
    revision: str | None = None
    selector: str | None = None

    @property
    def title(self) -> str:
        """The name of the model, where nothing else gives one."""
        return self.repo.partition("/")[2]


def parse_repository(name: str) -> RepositoryName | None:
    """What a name says; None where it names no repository.

    Raises:
        ConfigError: it begins as one does, and does not go on so.
    """
    name = name.strip()
    if url := _URL.match(name):
        found = _from_url(name[url.end() :])
    elif prefix := _PREFIX.match(name):
        parts = _NAME.fullmatch(name[prefix.end() :])
        found = RepositoryName(*parts.groups()) if parts else None
    else:
        return None
    if found is None or ".." in found.repo or "--" in found.repo:
        raise ConfigError(
            f"--model: {name} must read hf:OWNER/REPOSITORY, hf:OWNER/REPOSITORY:Q4_K_M"
            " or hf:OWNER/REPOSITORY@REVISION:Q4_K_M"
        )
    return found


def _from_url(path: str) -> RepositoryName | None:
    """The page of a repository, of one of its folders or files, as a browser shows it."""
    path = unquote(path.split("?", maxsplit=1)[0].split("#", maxsplit=1)[0]).strip("/")
    parts = _PAGE.fullmatch(path)
    if parts is None or _NAME.fullmatch(parts[1]) is None:
        return None
    revision = None if parts[3] in {None, "main"} else parts[3]
    file = parts[4] if parts[4] and parts[4].lower().endswith(".gguf") else None
    return RepositoryName(parts[1], revision, file)
