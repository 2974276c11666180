"""``llava-server list``: the models known by name, those that were pulled, and which fit here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import CacheNotFound

from server.cli.plan.machine import this_machine
from server.cli.plan.model import find_subject
from server.errors import ConfigError, OutOfMemory, StartupError
from server.gguf.split import is_first_part, split_names
from server.hub import catalogue
from server.hub.choose import divide, projector_for
from server.hub.resolve import is_downloaded
from server.memory.fit.planner import fit_model
from server.messages import DeviceMemory
from server.settings.command_line import load_settings
from server.settings.engine_config import engine_config


@dataclass(slots=True, frozen=True)
class Row:
    """A model as ``list`` shows it; ``name`` is what --model takes."""

    name: str
    n_bytes: float
    here: bool
    fits: str
    licence: str = ""
    notes: str = ""


def lines() -> Iterator[str]:
    """The table."""
    devices = _devices()
    rows = [*_known(devices), *_pulled(devices)]
    width = max(22, max((len(row.name) for row in rows), default=0) + 2)
    yield f"{'NAME':<{width}}{'SIZE':>9}  {'HERE':<5} {'FITS':<13} {'LICENCE':<28} NOTES"
    for row in rows:
        size, here = f"{row.n_bytes / 1e9:.2f} GB", "yes" if row.here else "no"
        yield (
            f"{row.name:<{width}}{size:>9}  {here:<5} {row.fits:<13} {row.licence:<28} {row.notes}"
        ).rstrip()


def _devices() -> tuple[DeviceMemory, ...]:
    try:
        return this_machine()
    except StartupError:
        return ()


def _known(devices: Sequence[DeviceMemory]) -> Iterator[Row]:
    for entry in catalogue.load().values():
        yield Row(
            entry.name,
            entry.gigabytes * 1e9,
            is_downloaded(entry),
            _fits(entry.name, devices),
            entry.licence,
            entry.notes,
        )


def _pulled(devices: Sequence[DeviceMemory]) -> Iterator[Row]:
    """The models in the hub's cache that the catalogue does not name."""
    known = {file for entry in catalogue.load().values() for file in entry.remote_files()}
    for repo, sizes in _cached_files():
        models, projectors = divide(sizes)
        for model in models:
            if (repo, model) in known or not is_first_part(model):
                continue
            try:
                mmproj = projector_for(model, projectors, repo)
            except ConfigError:
                mmproj = None
            files = [*split_names(model), *([mmproj] if mmproj else [])]
            name = f"hf:{repo}:{model}"
            size = sum(sizes.get(file, 0) for file in files)
            here = all(file in sizes for file in files)
            yield Row(name, size, here, _fits(name, devices), notes="pulled")


def _cached_files() -> Iterator[tuple[str, dict[str, int]]]:
    """The GGUF files of each repository in the hub's cache, with their bytes."""
    try:
        repos = huggingface_hub.scan_cache_dir().repos
    except (CacheNotFound, ValueError):
        return
    for repo in sorted(repos, key=lambda one: one.repo_id):
        found: dict[str, int] = {}
        for revision in repo.revisions:
            for file in revision.files:
                path = Path(file.file_path)
                found[path.relative_to(revision.snapshot_path).as_posix()] = file.size_on_disk
        if repo.repo_type == "model" and any(divide(found)):
            yield repo.repo_id, found


def _fits(name: str, devices: Sequence[DeviceMemory]) -> str:
    """Whether ``serve`` could load it here now, and with how much of it on the GPU."""
    if not devices:
        return "?"
    try:
        settings = load_settings({"model": name, "offline": True})
        subject = find_subject(settings)
        config = engine_config(settings, Path(subject.file or name), settings.mmproj)
        fit, _ = fit_model(config, subject.headers, tuple(devices))
        found = fit.best().placement
    except OutOfMemory:
        return "no"
    except StartupError:
        return "?"
    if not fit.space.gpus or found.n_gpu_layers == fit.space.layers:
        return "yes"
    return f"{found.n_gpu_layers}/{fit.space.layers} layers"
