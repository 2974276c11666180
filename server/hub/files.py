"""Files of the Hugging Face Hub: what a repository holds, what is here already, downloads.

huggingface-hub's cache is used and configured as ever: HF_HOME, HF_ENDPOINT, HF_TOKEN. A
repository may be named with a revision, ``OWNER/REPOSITORY@REVISION``.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from server.errors import ConfigError, StartupError
from server.hub.download import (
    Report,
    cache_folder,
    check_space,
    describe,
    download,
    is_whole,
    split_revision,
)

logger = logging.getLogger(__name__)

RemoteFile = tuple[str, str]
# What a repository holds, as the Hub said last: without the Hub it is known what is missing.
_LISTING = "llava-server-listing.json"
# A start must not wait long for a Hub that is not there. Seconds.
_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)


def cached(repo: str, file: str) -> Path | None:
    """The path of a file in the cache, if it is there."""
    name, revision = split_revision(repo)
    found = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


class HubFiles:
    """The Hub as this machine sees it; ``offline`` asks only the local cache."""

    def __init__(self, offline: bool) -> None:
        self.offline = offline or bool(constants.is_offline_mode())

    def missing(self, wanted: Sequence[RemoteFile]) -> list[RemoteFile]:
        """Those of the wanted files that are not in the local cache."""
        return [(repo, file) for repo, file in wanted if cached(repo, file) is None]

    def fetch(
        self, wanted: Sequence[RemoteFile], *, model: str, report: Report | None = None
    ) -> list[Path]:
        """Local paths of the files, downloaded where needed.

        What is here is used as it is: a start must not depend on the Hub being there. ``report``
        gets the progress of each download, in its thread; without it bars are drawn.
        """
        missing = self.missing(wanted)
        if missing and self.offline:
            raise self.unreachable(wanted, model, ConnectionError())
        found = []
        for repo, file in missing:
            with self.explained(wanted, repo, file, model):
                found.append(describe(repo, file))
        check_space(found)
        for one in found:
            with self.explained(wanted, one.repo, one.file, model):
                download(one, report)
        return [self._path(repo, file, model) for repo, file in wanted]

    def _path(self, repo: str, file: str, model: str) -> Path:
        path = cached(repo, file)
        if path is None:
            raise self.unreachable([(repo, file)], model, FileNotFoundError(file))
        return path

    def repair(
        self, wanted: Sequence[RemoteFile], *, model: str, report: Report | None = None
    ) -> list[RemoteFile]:
        """Checks what is in the cache against its checksums, and fetches anew what is damaged.

        The files that were damaged are returned.
        """
        damaged = []
        for repo, file in wanted:
            path = cached(repo, file)
            if path is None:
                continue
            blob = path.resolve()
            # The cache names a file by its checksum.
            if blob.parent.name == "blobs" and not is_whole(blob, blob.name):
                blob.unlink()
                path.unlink(missing_ok=True)
                damaged.append((repo, file))
        if damaged:
            self.fetch(damaged, model=model, report=report)
        return damaged

    def listing(self, repo: str, *, model: str) -> list[str]:
        """All file names of a repository, as the Hub said last where it cannot be asked now."""
        return list(self.sizes(repo, model=model))

    def sizes(self, repo: str, *, model: str) -> dict[str, int]:
        """The files of a repository with their bytes; 0 where only the cache is known."""
        if self.offline:
            known = self._known(repo)
            if not known:
                raise self.unreachable([(repo, "its model files")], model, ConnectionError())
            return known
        try:
            with self.explained([(repo, "its model files")], repo, None, model):
                found = _ask(repo)
        except StartupError as error:
            known = self._known(repo)
            if not known:
                raise
            logger.warning("%s; using what is in the cache", error.message)
            return known
        _remember(repo, found)
        return found

    def _known(self, repo: str) -> dict[str, int]:
        """What the Hub said last, or else what the cache holds."""
        with suppress(OSError, ValueError):
            found = json.loads(_listing_file(repo).read_text(encoding="utf-8"))
            if isinstance(found, dict) and all(type(size) is int for size in found.values()):
                return found
        name, revision = split_revision(repo)
        try:
            folder = Path(
                huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True)
            )
        except (LocalEntryNotFoundError, HFValidationError):
            return {}
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): 0 for path in files}

    @contextmanager
    def explained(
        self, wanted: Sequence[RemoteFile], repo: str, file: str | None, model: str
    ) -> Iterator[None]:
        """Turn the Hub's many failures into one line each that says what to do."""
        name, revision = split_revision(repo)
        where = f"{constants.ENDPOINT}/{name}"
        what = f"{file} of {where}" if file else where
        try:
            yield
        except GatedRepoError:
            raise StartupError(
                f"{where} is gated: accept its terms there, then set HF_TOKEN to a token of yours"
            ) from None
        except RepositoryNotFoundError:
            raise StartupError(
                f"{where} does not exist, or is private and HF_TOKEN does not open it"
            ) from None
        except RevisionNotFoundError:
            raise StartupError(f"{where} has no revision {revision}") from None
        except HFValidationError as error:
            raise ConfigError(f"--model: {model}: {error}") from None
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError) as error:
            raise self.unreachable(wanted, model, error) from None
        except EntryNotFoundError:
            raise StartupError(f"{where} has no file {file}") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            hint = "; set HF_TOKEN to a token that may read it" if status in {401, 403} else ""
            raise StartupError(f"{what}: the hub answered with status {status}{hint}") from None
        except OSError as error:
            raise StartupError(_disk_error(what, error)) from None

    def unreachable(
        self, wanted: Sequence[RemoteFile], model: str, error: Exception
    ) -> StartupError:
        """The error for files that are neither here nor to be had."""
        missing = ", ".join(
            f"{file} from {constants.ENDPOINT}/{repo}" for repo, file in self.missing(wanted)
        )
        cause = error.__cause__ or error
        reason = "the server is offline" if self.offline else f"the hub cannot be reached ({cause})"
        return StartupError(
            f"model {model} is not complete on this machine and {reason}; missing: {missing}. "
            f"Run `llava-server pull {model}` with a connection, or copy the files here and give "
            "them with --model and --mmproj"
        )


def _ask(repo: str) -> dict[str, int]:
    """The files of a repository with their bytes, as the Hub says; one retry and no more."""
    name, revision = split_revision(repo)
    url = f"{constants.ENDPOINT}/api/models/{name}/tree/{revision or 'main'}"
    found: dict[str, int] = {}
    query: dict[str, str] | None = {"recursive": "true"}
    while True:
        response = http_backoff(
            "GET", url, params=query, headers=build_hf_headers(), timeout=_TIMEOUT, max_retries=1
        )
        hf_raise_for_status(response)
        for item in response.json():
            if item.get("type") == "file":
                found[str(item["path"])] = int(item.get("size") or 0)
        more = response.links.get("next", {}).get("url")
        if not more:
            return found
        url, query = more, None


def _listing_file(repo: str) -> Path:
    _, revision = split_revision(repo)
    name = _LISTING if revision is None else f"{revision.replace('/', '--')}-{_LISTING}"
    return cache_folder(repo) / name


def _remember(repo: str, files: dict[str, int]) -> None:
    """Keeps the listing for a start without the Hub; that it cannot is no fault."""
    file = _listing_file(repo)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(files), encoding="utf-8")


def _disk_error(what: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{what}: no space left in {constants.HF_HUB_CACHE}; set HF_HOME to a larger disk"
    return f"{what}: {' '.join(str(error).split())}"
