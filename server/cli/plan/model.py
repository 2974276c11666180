"""What is planned: the headers of a model, from this machine or by ranges from the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from server.errors import ConfigError
from server.gguf.cursor import MalformedError
from server.gguf.file import read_header, unusable
from server.gguf.header import GGUFHeader, parse_header
from server.gguf.model_header import (
    LONGEST,
    ModelHeader,
    TowerHeader,
    model_header,
    read_model_header,
    read_tower_header,
    tower_header,
)
from server.gguf.split import split_names
from server.hub import catalogue
from server.hub.files import HubFiles, RemoteFile, choose
from server.hub.header_ranges import HubSource


@dataclass(slots=True, frozen=True)
class Subject:
    """A model that is planned. ``fetched`` bytes came over the network for it.

    ``repo`` is where it was found on the Hub, ``file`` its name there.
    """

    name: str
    model: ModelHeader
    tower: TowerHeader | None
    repo: str | None = None
    file: str | None = None
    fetched: int = 0


def find_subject(name: str, mmproj: Path | None, *, offline: bool) -> Subject:
    """Reads the headers of the model ``name``: a path, a name of the catalogue, or hf:OWNER/REPO.

    Raises:
        ConfigError: there is no such model.
        StartupError: its files cannot be read.
    """
    own = read_tower_header(mmproj) if mmproj is not None else None
    if name.startswith("hf:"):
        return _from_repository(name, own, HubFiles(offline))
    entry = catalogue.load().get(name)
    if entry is None:
        path = Path(name).expanduser()
        if not path.is_file():
            raise catalogue.unknown(name)
        return Subject(path.stem, read_model_header(path), own)
    if entry.repo is None:
        folder = catalogue.models_dir()
        found = own or read_tower_header(folder / entry.mmproj)
        return Subject(entry.name, read_model_header(folder / entry.file), found)
    model, tower = entry.remote_files()
    return _remote(entry.name, model, None if own else tower, own, HubFiles(offline))


def _from_repository(name: str, own: TowerHeader | None, hub: HubFiles) -> Subject:
    repo, _, selector = name.removeprefix("hf:").partition(":")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ConfigError(
            f"MODEL: {name} must read hf:OWNER/REPOSITORY or hf:OWNER/REPOSITORY:Q4_K_M"
        )
    parts, projector = choose(hub.listing(repo, model=name), repo, selector or None)
    tower = (repo, projector) if projector and own is None else None
    return _remote(repo.partition("/")[2], (repo, parts[0]), tower, own, hub)


def _remote(
    name: str, model: RemoteFile, tower: RemoteFile | None, own: TowerHeader | None, hub: HubFiles
) -> Subject:
    fetched = 0
    parts: list[GGUFHeader] = []
    for part in split_names(model[1]):
        header, count = _header((model[0], part), hub, name)
        parts.append(header)
        fetched += count
    found = own
    if tower is not None:
        header, count = _header(tower, hub, name)
        found = tower_header(tower[1], header)
        fetched += count
    return Subject(name, model_header(model[1], parts), found, model[0], model[1], fetched)


def _header(file: RemoteFile, hub: HubFiles, model: str) -> tuple[GGUFHeader, int]:
    """A header, and how many bytes were fetched for it: none where the file is here."""
    cached = huggingface_hub.try_to_load_from_cache(*file)
    if isinstance(cached, str):
        return read_header(Path(cached), longest=LONGEST), 0
    if hub.offline:
        raise hub.unreachable([file], model, ConnectionError())
    with hub.explained([file], *file, model):
        source = HubSource(*file)
        try:
            return parse_header(source, raw=False, longest=LONGEST), source.fetched
        except MalformedError as error:
            raise unusable("/".join(file), error) from error


def quantizations(subject: Subject, *, offline: bool) -> dict[str, int]:
    """Bytes of each quantization of the same model that its repository has, by file name.

    Split ones are summed under the name of their first part. Empty without a repository.
    """
    hub = HubFiles(offline)
    if subject.repo is None or hub.offline:
        return {}
    sizes = hub.sizes(subject.repo, model=subject.name)
    models = {name: size for name, size in sizes.items() if "mmproj" not in name.lower()}
    return {
        name: sum(_of_parts(models, split_names(name)))
        for name in models
        if split_names(name)[0] == name
    }


def _of_parts(sizes: dict[str, int], parts: Sequence[str]) -> list[int]:
    return [sizes.get(part, 0) for part in parts]
