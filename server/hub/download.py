"""Downloads that go on where an earlier one stopped, also one of an earlier process.

huggingface-hub 2.4 begins each try at a file's first byte, so the bytes are fetched here, to the
place in its cache where it looks for them: ``blobs/`` and the file's checksum. It does the rest.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)
from tqdm import tqdm

from server.errors import StartupError
from server.sizes import in_words

# Called with a file's name, the bytes of it that are here, and all its bytes.
Report = Callable[[str, int, int], None]

_SPAN: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
# Tries after one that brought nothing.
_TRIES: Final = 5
_BLOCK: Final = 1 << 22


def split_revision(repo: str) -> tuple[str, str | None]:
    """``OWNER/REPOSITORY@REVISION`` in its two parts."""
    name, _, revision = repo.partition("@")
    return name, revision or None


def cache_folder(repo: str) -> Path:
    """The folder of a repository in the cache of the hub's client."""
    name, _ = split_revision(repo)
    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


@dataclass(slots=True, frozen=True)
class Download:
    """A file that is to be downloaded. ``etag`` is its checksum, and its name in the cache."""

    repo: str
    file: str
    etag: str
    size: int

    @property
    def target(self) -> Path:
        """Where the hub's client looks for its bytes."""
        return cache_folder(self.repo) / "blobs" / self.etag

    @property
    def partial(self) -> Path:
        """Where its bytes are gathered. huggingface-hub takes no notice of it."""
        return self.target.with_name(f"{self.etag}.partial")

    @property
    def missing(self) -> int:
        """Bytes that are not here yet."""
        if self.target.exists():
            return 0
        return max(self.size - (self.partial.stat().st_size if self.partial.exists() else 0), 0)

    @property
    def url(self) -> str:
        """Where the Hub serves it."""
        name, revision = split_revision(self.repo)
        return hf_hub_url(name, self.file, revision=revision)


def describe(repo: str, file: str) -> Download:
    """Asks the Hub for a file's size and checksum."""
    name, revision = split_revision(repo)
    found = get_hf_file_metadata(hf_hub_url(name, file, revision=revision))
    if not found.etag or found.size is None:
        raise StartupError(f"{name}/{file}: the hub gives no size and checksum")
    return Download(repo, file, found.etag, found.size)


def check_space(downloads: list[Download]) -> None:
    """Refuses what the disk has no room for, before the first byte.

    Raises:
        StartupError: with both figures.
    """
    wanted = sum(download.missing for download in downloads)
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise StartupError(
            f"{in_words(wanted)} are to be downloaded and {constants.HF_HUB_CACHE} has"
            f" {in_words(free)} free; set HF_HOME to a larger disk"
        )


def download(wanted: Download, report: Report | None) -> Path:
    """Fetches what is missing of a file; its path in the cache.

    Raises:
        StartupError: what came is not the file.
    """
    name, revision = split_revision(wanted.repo)
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be at the same file: this one then finds it done.
    with WeakFileLock(f"{wanted.partial}.lock"):
        if not wanted.target.exists():
            with _progress(wanted, report) as bar:
                _gather(wanted, bar)
            _finish(wanted)
    return Path(hf_hub_download(name, wanted.file, revision=revision))


class Bar(Protocol):
    """What shows the progress."""

    def __call__(self, done: int) -> None:
        """``done`` bytes are here."""


@contextmanager
def _progress(wanted: Download, report: Report | None) -> Iterator[Bar]:
    if report is not None:
        yield lambda done: report(wanted.file, done, wanted.size)
        return
    with tqdm(total=wanted.size, unit="B", unit_scale=True, desc=wanted.file) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        yield show


def _gather(wanted: Download, bar: Bar) -> None:
    idle = 0
    with wanted.partial.open("ab") as out:
        while (done := out.tell()) < wanted.size:
            bar(done)
            try:
                with open_range(wanted.url, done) as response:
                    if response.status_code != 206:  # from the beginning again
                        out.truncate(0)
                        out.seek(0)
                    for block in response.iter_bytes(constants.DOWNLOAD_CHUNK_SIZE):
                        out.write(block)
                        bar(out.tell())
            except (httpx2.TransportError, HfHubHTTPError) as error:
                if idle >= _TRIES or not is_passing(error):
                    raise
            if out.tell() > done:
                idle = 0
                continue
            idle += 1
            if idle > _TRIES:
                break
            time.sleep(min(2**idle, 8))
        bar(out.tell())


def is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in {408, 429, 500, 502, 503, 504}
    return isinstance(error, httpx2.TransportError)


def open_range(
    url: str, start: int, last: int | None = None
) -> AbstractContextManager[httpx2.Response]:
    """A file's bytes from ``start`` to ``last``, or to its end; the response is checked."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start or last is not None:
        headers["Range"] = f"bytes={start}-{'' if last is None else last}"
    return _checked(url, headers, start)


@contextmanager
def _checked(url: str, headers: dict[str, str], start: int) -> Iterator[httpx2.Response]:
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    # Without the client's own retries, which know nothing of the bytes that are here already.
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        span = span_of(response)
        if response.status_code == 206 and (span is None or span[0] != start):
            raise StartupError(f"{url}: the hub sends other bytes than it was asked for")
        yield response


def span_of(response: httpx2.Response) -> tuple[int, int, int] | None:
    """First and last byte of a partial answer, and the bytes of the whole file."""
    found = _SPAN.match(response.headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _finish(wanted: Download) -> None:
    size = wanted.partial.stat().st_size
    if size != wanted.size:
        if size > wanted.size:
            wanted.partial.unlink()
        raise StartupError(
            f"{wanted.file}: the download ended with {size} of {wanted.size} bytes, a wrong size;"
            " run the same command again"
        )
    if not is_whole(wanted.partial, wanted.etag):
        wanted.partial.unlink()
        raise StartupError(
            f"{wanted.file}: what was downloaded has a wrong checksum; run the same command again"
        )
    wanted.partial.replace(wanted.target)


def is_whole(path: Path, etag: str) -> bool:
    """Whether a file's content is what its checksum says; True for a checksum of another kind."""
    if _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
    elif _SHA1.fullmatch(etag):  # as git has it
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return True
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == etag
