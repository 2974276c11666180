"""Where a model's files come from: a path, the catalogue, or a repository on the Hub."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from server.errors import ConfigError, StartupError
from server.gguf.file import read_header
from server.gguf.model_header import LONGEST, is_mmproj
from server.gguf.split import split_names
from server.hub import catalogue
from server.hub.catalogue import CatalogueEntry
from server.hub.choose import choose, projector_for
from server.hub.names import RepositoryName, parse_repository
from server.mmproj.facts import facts_of
from server.settings.settings import Settings

if TYPE_CHECKING:
    from server.hub.download import Report
    from server.hub.files import HubFiles, RemoteFile

logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class ModelName:
    """What is known of a model before its files are here: its name, and of a model that brings
    none of its own the name of its chat template.
    """

    name: str
    chat_template: str | None = None


@dataclass(slots=True, frozen=True)
class ResolvedModel:
    """Files on this machine, ready to be loaded.

    ``chat_template`` is the name of a template, for models that bring none of their own.
    """

    name: str
    model: Path
    mmproj: Path | None
    chat_template: str | None = None


def identify(settings: Settings) -> ModelName:
    """The model that the settings name, without asking the Hub.

    Raises:
        ConfigError: they name a file that is not there, or nothing that is known.
    """
    if settings.mmproj is not None and not settings.text_only:
        if settings.mmproj.is_dir():
            raise ConfigError(f"--mmproj: {settings.mmproj} is a folder; name the .gguf file in it")
        if not settings.mmproj.is_file():
            raise ConfigError(f"--mmproj: no such file: {settings.mmproj}")
    name = settings.model
    if found := parse_repository(name):
        return ModelName(found.title)
    if entry := catalogue.load().get(name):
        return ModelName(entry.name, entry.chat_template)
    return ModelName(_local(name).stem)


def resolve(
    settings: Settings, report: Report | None = None, *, repair: bool = False
) -> ResolvedModel:
    """Finds the model that the settings name, and downloads what is missing of it.

    ``report`` gets the progress of downloads. With ``repair`` what is in the cache is checked, and
    fetched anew where it is damaged.
    """
    named = identify(settings)
    name = settings.model
    if found := parse_repository(name):
        model, mmproj = _from_repository(found, settings, report, repair=repair)
    elif entry := catalogue.load().get(name):
        model, mmproj = _from_catalogue(entry, settings, report, repair=repair)
    else:
        model = _local(name)
        mmproj = None if settings.mmproj else mmproj_beside(model)
    tower = None if settings.text_only else settings.mmproj or mmproj
    return ResolvedModel(named.name, model, tower, named.chat_template)


def on_this_machine(settings: Settings) -> ResolvedModel | None:
    """The model that the settings name, where nothing is to be downloaded or asked for it.

    Raises:
        ConfigError: it cannot be loaded with these settings.
    """
    entry = catalogue.load().get(settings.model)
    if parse_repository(settings.model) or (entry and not is_downloaded(entry)):
        return None
    return resolve(settings)


def is_downloaded(entry: CatalogueEntry) -> bool:
    """Whether all files of a catalogue entry are on this machine."""
    if entry.repo is None:
        folder = catalogue.models_dir()
        return (folder / entry.file).is_file() and (folder / entry.mmproj).is_file()
    return not _hub(offline=True).missing(entry.remote_files())


def _local(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"--model: {path} is a folder; name the .gguf file in it")
    if path.suffix == ".gguf" or name.startswith(("/", "./", "../", "~")):
        raise ConfigError(f"--model: no such file: {path}")
    raise catalogue.unknown(name)


def mmproj_beside(model: Path) -> Path | None:
    """The mmproj in a model's folder, if there is one that fits, and one only."""
    files = sorted(path for path in model.parent.glob("*.gguf") if "mmproj" in path.name.lower())
    files = [path for path in files if path.name != model.name]
    if not files:
        return None
    fitting = [path.name for path in files if _fits(model, path)]
    try:
        best = projector_for(model.name, fitting, "the folder")
    except ConfigError:
        best = None
    if best is None:
        logger.warning(
            "no --mmproj is given, so pictures are refused; in the model's folder are %s",
            ", ".join(path.name for path in files),
        )
        return None
    logger.info("--mmproj: %s, which lies beside the model and fits it", best)
    return model.parent / best


def _fits(model: Path, mmproj: Path) -> bool:
    """Whether a mmproj projects to the model's width."""
    try:
        header = read_header(model, longest=LONGEST)
        facts = facts_of(mmproj, read_header(mmproj, longest=LONGEST))
    except StartupError:
        return False
    if is_mmproj(header):
        return False
    name = header.metadata.get("general.architecture")
    width = header.metadata.get(f"{name.value}.embedding_length") if name else None
    return width is not None and facts.n_out == width.value


def _hub(*, offline: bool) -> HubFiles:
    # huggingface-hub takes a quarter of a second to import, and files of one's own do not need it.
    from server.hub.files import HubFiles  # noqa: PLC0415

    return HubFiles(offline)


def _from_catalogue(
    entry: CatalogueEntry, settings: Settings, report: Report | None, *, repair: bool
) -> tuple[Path, Path | None]:
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
        files = _fetch(_hub(offline=settings.offline), wanted, entry.name, report, repair=repair)
    return files[0], files[1] if len(files) > 1 else None


def _from_repository(
    name: RepositoryName, settings: Settings, report: Report | None, *, repair: bool
) -> tuple[Path, Path | None]:
    hub = _hub(offline=settings.offline)
    repo, wanted = files_of(name, hub, settings.model, own_mmproj=settings.mmproj is not None)
    files = _fetch(hub, wanted, settings.model, report, repair=repair)
    # Of a split model llama.cpp gets the first part and finds the others beside it.
    parts = len(split_names(wanted[0][1]))
    if len(files) == parts and settings.mmproj is None:
        logger.warning(
            "%s has no vision tower (mmproj) among the files that are known, so pictures are"
            " refused; `llava-server pull %s` looks for one",
            repo,
            settings.model,
        )
    return files[0], files[parts] if len(files) > parts else None


def files_of(
    name: RepositoryName, hub: HubFiles, model: str, *, own_mmproj: bool
) -> tuple[str, list[RemoteFile]]:
    """The repository, and its files that are meant: all parts of the model, then its mmproj."""
    repo = name.repo if name.revision is None else f"{name.repo}@{name.revision}"
    listed = hub.listing(repo, model=model)
    if own_mmproj:
        listed = [file for file in listed if "mmproj" not in file.lower()]
    parts, mmproj = choose(listed, name.repo, name.selector)
    return repo, [(repo, file) for file in (*parts, mmproj) if file is not None]


def _fetch(
    hub: HubFiles, wanted: list[RemoteFile], model: str, report: Report | None, *, repair: bool
) -> list[Path]:
    if repair:
        for _, file in hub.repair(wanted, model=model, report=report):
            logger.warning("%s was damaged and has been downloaded again", file)
    return hub.fetch(wanted, model=model, report=report)
