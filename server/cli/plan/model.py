"""What is planned: the headers of a model, from this machine, the Hub or our own collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.errors import ConfigError
from server.gguf.cursor import MalformedError
from server.gguf.file import read_header, read_shipped_header, unusable
from server.gguf.header import GGUFHeader, parse_header
from server.gguf.model_header import LONGEST
from server.gguf.split import split_names
from server.hub import catalogue
from server.hub.catalogue import CatalogueEntry
from server.hub.choose import quantizations
from server.hub.files import HubFiles, RemoteFile, cached
from server.hub.header_ranges import HubSource
from server.hub.names import parse_repository
from server.hub.resolve import files_of, mmproj_beside
from server.memory.fit.planner import Headers, headers_of, read_headers
from server.settings.settings import Settings


@dataclass(slots=True, frozen=True)
class Subject:
    """A model that is planned. ``fetched`` bytes came over the network for it.

    ``repo`` is where it was found on the Hub, ``file`` its name there. ``shipped``: its headers are
    those that came with this program.
    """

    name: str
    headers: Headers
    repo: str | None = None
    file: str | None = None
    fetched: int = 0
    shipped: bool = False


def find_subject(settings: Settings) -> Subject:
    """Reads the headers of the settings' model.

    Raises:
        ConfigError: there is no such model.
        StartupError: its files cannot be read.
    """
    name, own = settings.model, None if settings.text_only else settings.mmproj
    hub = HubFiles(settings.offline)
    if repository := parse_repository(name):
        repo, wanted = files_of(repository, hub, name, own_mmproj=settings.mmproj is not None)
        return _Reader(hub, repository.title).remote(wanted, own, repo)
    entry = catalogue.load().get(name)
    if entry is None:
        path = Path(name).expanduser()
        if not path.is_file():
            raise catalogue.unknown(name)
        # As serve does: a mmproj in the folder that fits.
        beside = None if settings.mmproj else mmproj_beside(path)
        return Subject(path.stem, read_headers(path, own or beside))
    if entry.repo is None:
        folder = catalogue.models_dir()
        tower = None if settings.text_only else own or folder / entry.mmproj
        return Subject(entry.name, read_headers(folder / entry.file, tower))
    return _from_catalogue(entry, own, hub, text_only=settings.text_only)


def _from_catalogue(
    entry: CatalogueEntry, own: Path | None, hub: HubFiles, *, text_only: bool
) -> Subject:
    """Files that are here say best what they are; else the headers that came with this program."""
    wanted = entry.remote_files()[: 1 if own or text_only else 2]
    shipped = catalogue.shipped_headers(entry)
    if not hub.missing(wanted) or shipped is None:
        return _Reader(hub, entry.name).remote(wanted, own, wanted[0][0])
    model, mmproj = read_shipped_header(shipped[0]), None
    if own is not None:
        mmproj = read_header(own, longest=LONGEST)
    elif not text_only:
        mmproj = read_shipped_header(shipped[1])
    headers = headers_of(Path(entry.file), [model], own or Path(entry.mmproj), mmproj)
    return Subject(entry.name, headers, wanted[0][0], wanted[0][1], shipped=True)


@dataclass(slots=True)
class _Reader:
    """Reads headers from the cache, and by ranges from the Hub; counts what it fetched."""

    hub: HubFiles
    model: str
    fetched: int = 0

    def remote(self, wanted: list[RemoteFile], own: Path | None, repo: str) -> Subject:
        first = wanted[0][1]
        names = split_names(first)
        parts = [self._header((repo, name)) for name in names]
        tower = next((file for file in wanted if file[1] not in names), None)
        mmproj, header = own, None
        if own is not None:
            header = read_header(own, longest=LONGEST)
        elif tower is not None:
            mmproj, header = Path(tower[1]), self._header(tower)
        headers = headers_of(Path(first), parts, mmproj, header)
        return Subject(self.model, headers, repo, first, self.fetched)

    def _header(self, file: RemoteFile) -> GGUFHeader:
        """A header; nothing is fetched where the file is here."""
        path = cached(*file)
        if path is not None:
            return read_header(path, longest=LONGEST)
        if self.hub.offline:
            raise self.hub.unreachable([file], self.model, ConnectionError())
        with self.hub.explained([file], *file, self.model):
            source = HubSource(*file)
            try:
                header = parse_header(source, raw=False, longest=LONGEST)
            except MalformedError as error:
                raise unusable("/".join(file), error) from error
            self.fetched += source.fetched
            return header


def other_files(subject: Subject, settings: Settings) -> dict[str, int]:
    """Bytes of each quantization of the same model that its repository has, by file name.

    Split ones are summed under the name of their first part. Empty where the Hub is not asked.
    """
    hub = HubFiles(settings.offline)
    if subject.repo is None or subject.file is None or hub.offline or subject.shipped:
        return {}
    sizes = hub.sizes(subject.repo, model=subject.name)
    if not any(sizes.values()):
        raise ConfigError("the cache does not say how large they are")
    return quantizations(sizes, subject.file)
