"""The catalogue of known models: ``models/*.toml``, read at each start."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tomli

from server.errors import ConfigError


@dataclass(slots=True, frozen=True)
class CatalogueEntry:
    """A model by name. Without ``repo`` its files lie in the models folder.

    ``chat_template`` names a template for files that carry none of their own.
    """

    name: str
    file: str
    mmproj: str
    licence: str
    gigabytes: float
    notes: str = ""
    repo: str | None = None
    mmproj_repo: str | None = None
    chat_template: str | None = None

    def remote_files(self) -> list[tuple[str, str]]:
        """Repository and file name of all that must be downloaded."""
        if self.repo is None:
            return []
        return [(self.repo, self.file), (self.mmproj_repo or self.repo, self.mmproj)]


def models_dir() -> Path:
    """The folder of the catalogue: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


@cache
def load(folder: Path | None = None) -> dict[str, CatalogueEntry]:
    """All entries by name, in the order of the files."""
    entries: dict[str, CatalogueEntry] = {}
    for path in sorted((folder or models_dir()).glob("*.toml")):
        try:
            for name, table in tomli.loads(path.read_text(encoding="utf-8")).items():
                if name in entries:
                    raise ConfigError(f"{path}: {name} is already in the catalogue")
                entries[name] = CatalogueEntry(name=name, **table)
        except (tomli.TOMLDecodeError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from None
    return entries


def shipped_headers(entry: CatalogueEntry) -> tuple[Path, Path] | None:
    """The headers of a model and of its mmproj that came with this program, without weights."""
    folder = models_dir() / "headers"
    found = folder / f"{entry.name}.gguf.gz", folder / f"{entry.name}-mmproj.gguf.gz"
    return found if all(path.is_file() for path in found) else None


def _closest(name: str) -> str | None:
    """The name that was probably meant: the smallest that begins so, else one spelt alike."""
    known = load().values()
    begin = [entry for entry in known if entry.name.startswith(name.lower())]
    if begin:
        return min(begin, key=lambda entry: entry.gigabytes).name
    close = difflib.get_close_matches(name.lower(), [one.name for one in known], n=1, cutoff=0.5)
    return close[0] if close else None


def unknown(name: str) -> ConfigError:
    """The error for a name that is neither in the catalogue nor a file."""
    names = list(load())
    close = _closest(name)
    hint = f"did you mean {close}? " if close else ""
    spelling = f"for a repository write hf:{name}; " if name.count("/") == 1 else ""
    return ConfigError(
        f"--model: {name} is neither a file nor a known model; {hint}{spelling}"
        f"known are {', '.join(names)}"
    )
