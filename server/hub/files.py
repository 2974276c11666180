"""Files of the Hugging Face Hub: what a repository holds, what is here already, downloads.

huggingface-hub does the work and is configured as ever: HF_HOME, HF_ENDPOINT, HF_TOKEN.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from server.errors import ConfigError, StartupError
from server.gguf.split import split_names

RemoteFile = tuple[str, str]

PREFERRED_QUANTS = ("q4_k_m", "q4_k", "q4_k_s", "q5_k_m", "q8_0", "q4_0", "int4", "f16")
PREFERRED_MMPROJ = ("f16", "bf16", "q8_0", "f32")


class HubFiles:
    """The Hub as this machine sees it; ``offline`` asks only the local cache."""

    def __init__(self, offline: bool) -> None:
        self.offline = offline or bool(constants.is_offline_mode())

    def missing(self, wanted: Sequence[RemoteFile]) -> list[RemoteFile]:
        """Those of the wanted files that are not in the local cache."""
        return [
            (repo, file)
            for repo, file in wanted
            if not isinstance(huggingface_hub.try_to_load_from_cache(repo, file), str)
        ]

    def fetch(self, wanted: Sequence[RemoteFile], *, model: str) -> list[Path]:
        """Local paths of the files, downloaded where needed, with progress bars."""
        paths = []
        for repo, file in wanted:
            # What is here is used as it is: a start must not depend on the hub being there.
            cached = huggingface_hub.try_to_load_from_cache(repo, file)
            if not isinstance(cached, str):
                with self.explained(wanted, repo, file, model):
                    cached = huggingface_hub.hf_hub_download(
                        repo, file, local_files_only=self.offline
                    )
            paths.append(Path(str(cached)))
        return paths

    def listing(self, repo: str, *, model: str) -> list[str]:
        """All file names of a repository, or of what the cache holds of it when offline."""
        with self.explained([(repo, "its model files")], repo, None, model):
            if not self.offline:
                return list(huggingface_hub.HfApi().list_repo_files(repo))
            folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
            return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]

    def sizes(self, repo: str, *, model: str) -> dict[str, int]:
        """The GGUF files of a repository with their bytes; needs the Hub."""
        with self.explained([(repo, "the list of its files")], repo, None, model):
            tree = huggingface_hub.HfApi().list_repo_tree(repo, recursive=True)
            found = {item.path: getattr(item, "size", None) for item in tree}
        return {path: size for path, size in found.items() if size and path.endswith(".gguf")}

    @contextmanager
    def explained(
        self, wanted: Sequence[RemoteFile], repo: str, file: str | None, model: str
    ) -> Iterator[None]:
        """Turn the Hub's many failures into one line each that says what to do."""
        where = f"{constants.ENDPOINT}/{repo}"
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


def _disk_error(what: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{what}: no space left in {constants.HF_HUB_CACHE}; set HF_HOME to a larger disk"
    if "onsistency check failed" in str(error):
        return f"{what}: the download ended with a wrong size; run the same command again"
    return f"{what}: {' '.join(str(error).split())}"


def choose(files: Sequence[str], repo: str, selector: str | None) -> tuple[list[str], str | None]:
    """The model's file (all parts of a split one) and its mmproj, out of a repository's listing."""
    ggufs = [file for file in files if file.endswith(".gguf")]
    models = [file for file in ggufs if "mmproj" not in file.lower()]
    found = _select(models, selector)
    if found is None:
        known = ", ".join(models) or "no GGUF model at all"
        wish = f"no {selector}" if selector else "no usual quantization to choose"
        raise ConfigError(f"--model: {repo} has {wish}; it has {known}")
    parts = split_names(found)
    projectors = [file for file in ggufs if "mmproj" in file.lower()]
    return sorted(parts), _first(projectors, PREFERRED_MMPROJ) or next(iter(projectors), None)


def _select(models: Sequence[str], selector: str | None) -> str | None:
    if selector is None:
        return _first(models, PREFERRED_QUANTS) or (models[0] if len(models) == 1 else None)
    if selector.endswith(".gguf"):
        return selector if selector in models else None
    return _first(models, (selector.lower(),))


def _first(files: Sequence[str], words: Sequence[str]) -> str | None:
    """The first file that has a word as a whole part of its name, best words first."""
    for word in words:
        pattern = re.compile(rf"(^|[-._/]){re.escape(word)}([-.]|$)")
        for file in sorted(files):
            if pattern.search(file.lower()):
                return file
    return None
