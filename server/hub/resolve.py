"""Where a model's files come from: a path, the catalogue, or a repository on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.errors import ConfigError, StartupError
from server.hub import catalogue
from server.hub.catalogue import CatalogueEntry
from server.hub.files import HubFiles, choose
from server.settings.settings import Settings


@dataclass(slots=True, frozen=True)
class ResolvedModel:
    """Files on this machine, ready to be loaded.

    ``chat_template`` is the name of a template, for models that bring none of their own.
    """

    name: str
    model: Path
    mmproj: Path | None
    chat_template: str | None = None


def resolve(settings: Settings) -> ResolvedModel:
    """Find the model that the settings name, and download what is missing of it."""
    found = _find(settings)
    if settings.mmproj is None:
        return found
    if not settings.mmproj.is_file():
        raise ConfigError(f"--mmproj: no such file: {settings.mmproj}")
    return ResolvedModel(found.name, found.model, settings.mmproj, found.chat_template)


def is_downloaded(entry: CatalogueEntry) -> bool:
    """Whether all files of a catalogue entry are on this machine."""
    if entry.repo is None:
        folder = catalogue.models_dir()
        return (folder / entry.file).is_file() and (folder / entry.mmproj).is_file()
    return not HubFiles(offline=True).missing(entry.remote_files())


def _find(settings: Settings) -> ResolvedModel:
    name = settings.model
    if name.startswith("hf:"):
        return _from_repository(name, settings)
    entry = catalogue.load().get(name)
    if entry is not None:
        return _from_catalogue(entry, settings)
    return _from_path(name)


def _from_path(name: str) -> ResolvedModel:
    path = Path(name).expanduser()
    if path.is_file():
        return ResolvedModel(path.stem, path, None)
    if path.is_dir():
        raise ConfigError(f"--model: {path} is a folder; name the .gguf file in it")
    if path.suffix == ".gguf" or name.startswith(("/", "./", "../", "~")):
        raise ConfigError(f"--model: no such file: {path}")
    raise catalogue.unknown(name)


def _from_catalogue(entry: CatalogueEntry, settings: Settings) -> ResolvedModel:
    if entry.repo is None:
        folder = catalogue.models_dir()
        files = [folder / entry.file, folder / entry.mmproj]
        for path in files:
            if not path.is_file():
                raise StartupError(f"model {entry.name}: {path} is missing from this installation")
    else:
        wanted = entry.remote_files()
        if settings.mmproj is not None:
            wanted = wanted[:1]
        files = HubFiles(settings.offline).fetch(wanted, model=entry.name)
    mmproj = files[1] if len(files) > 1 else None
    return ResolvedModel(entry.name, files[0], mmproj, entry.chat_template)


def _from_repository(name: str, settings: Settings) -> ResolvedModel:
    repo, _, selector = name.removeprefix("hf:").partition(":")
    if repo.count("/") != 1 or repo.startswith("/") or repo.endswith("/"):
        raise ConfigError(
            f"--model: {name} must read hf:OWNER/REPOSITORY or hf:OWNER/REPOSITORY:Q4_K_M"
        )
    hub = HubFiles(settings.offline)
    parts, mmproj = choose(hub.listing(repo, model=name), repo, selector or None)
    wanted = [(repo, part) for part in parts]
    if mmproj is not None and settings.mmproj is None:
        wanted.append((repo, mmproj))
    files = hub.fetch(wanted, model=name)
    # Of a split model llama.cpp is given the first part and finds the others beside it.
    projector = files[len(parts)] if len(files) > len(parts) else None
    return ResolvedModel(repo.partition("/")[2], files[0], projector)
