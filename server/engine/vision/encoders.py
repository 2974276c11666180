"""Where a picture's rows come from: the memory, the disk, or the tower."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.cpu_cores import unbind
from server.engine.heartbeat import CurrentWork
from server.engine.llama.ggml import Cuts
from server.engine.request import Picture
from server.engine.vision.disk_cache import ImageStore, KeptEncodes
from server.engine.vision.encode import EncodeThread, SlicedEncodes
from server.engine.vision.tower import Tower
from server.memory.fit.pools import is_remote
from server.memory.fit.search_space import Placement
from server.messages import BuildFacts, DeviceMemory, EngineConfig

Rows = NDArray[np.float32]


class ImageCache:
    """Rows by digest. The digest covers the picture's bytes and its preprocessing; the tower is
    the same for as long as the process lives. ``max_bytes`` 0 keeps nothing here. ``to_disk``
    is given all rows that are new.
    """

    def __init__(self, max_bytes: int, to_disk: Callable[[str, Rows], None] | None = None) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.queries = 0
        self.hits = 0
        self.disk_hits = 0
        self._to_disk = to_disk
        self._rows: OrderedDict[str, Rows] = OrderedDict()

    def get(self, digest: str) -> Rows | None:
        """The rows, float32 [n_tokens, n_embd], or None; counts both."""
        self.queries += 1
        rows = self._rows.get(digest)
        if rows is not None:
            self.hits += 1
            self._rows.move_to_end(digest)
        return rows

    def put(self, digest: str, rows: Rows, *, on_disk: bool = False) -> None:
        """Keeps the rows, if they fit at all, and drops the oldest ones beyond the bound.

        ``on_disk``: that is where they come from.
        """
        self.disk_hits += on_disk
        if self._to_disk is not None and not on_disk:
            self._to_disk(digest, rows)
        if digest in self._rows or rows.nbytes > self.max_bytes:
            return
        self._rows[digest] = rows
        self.n_bytes += rows.nbytes
        while self.n_bytes > self.max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.n_bytes -= oldest.nbytes


@dataclass(slots=True, frozen=True)
class Encoders:
    """The encoder, and what is kept on disk before it."""

    encoding: EncodeThread | SlicedEncodes
    kept: KeptEncodes | None

    @property
    def slices(self) -> SlicedEncodes | None:
        """The encoder that wants to be called by the engine's loop, if it is of that kind."""
        return self.encoding if isinstance(self.encoding, SlicedEncodes) else None

    def beat(self, work: CurrentWork) -> None:
        """Has a thread report its progress; slices are the loop's own."""
        if isinstance(self.encoding, EncodeThread):
            self.encoding.work = work

    def submit(self, pictures: list[Picture]) -> None:
        """Begins to encode pictures, together; the results come as messages."""
        (self.kept or self.encoding).submit(pictures)

    def keep(self, digest: str, rows: NDArray[np.float32]) -> None:
        """Writes new rows to disk, if the operator wants that."""
        if self.kept is not None:
            self.kept.keep(digest, rows)

    def close(self) -> None:
        """Ends the threads."""
        if self.kept is not None:
            self.kept.close()
        self.encoding.close()


def choose_cuts(placement: Placement, gpus: Sequence[DeviceMemory], tower_gpu: int) -> Cuts | None:
    """Cuts where tower and language model must take turns: on the CPU, and at an rpc-server.

    That computes one thing after another for all its devices; and llama.cpp, which remembers a
    device's last graph to send it once, may run the wrong one for two threads (last_graph_uid in
    ggml-rpc.cpp). ``tower_gpu`` is the index in ``gpus`` of the one for the tower.
    """
    if not placement.n_gpu_layers and not placement.encoder_on_gpu:
        return Cuts()
    unbind()  # the GPU computes; this thread should not be stuck on one core
    if not placement.encoder_on_gpu or not is_remote(gpus[tower_gpu]):
        return None
    shares = placement.tensor_split or (1.0,) * len(gpus)
    used = [gpu for gpu, share in zip(gpus, shares, strict=False) if share and is_remote(gpu)]
    servers = {gpu.description for gpu in used if placement.n_gpu_layers}
    return Cuts() if gpus[tower_gpu].description in servers else None


def make_encoders(
    config: EngineConfig,
    tower: Tower,
    cuts: Cuts | None,
    build: BuildFacts,
    post: Callable[[Any], None],
) -> Encoders:
    """The encoders that ``config`` asks for; ``post`` puts a message to the engine's loop.

    Raises:
        StartupError: the folder for encoded pictures cannot be used.
    """
    encoding: EncodeThread | SlicedEncodes
    if cuts is not None:
        encoding = SlicedEncodes(tower.encode, cuts, config.itl_target)
    else:
        encoding = EncodeThread(tower.encode, post)
    if config.image_cache_dir is None:
        return Encoders(encoding, None)
    identity = _identity(tower, config, build)
    store = ImageStore(config.image_cache_dir, identity, config.image_cache_dir_bytes)
    return Encoders(encoding, KeptEncodes(store, encoding.submit, post))


def _identity(tower: Tower, config: EngineConfig, build: BuildFacts) -> str:
    """A hash of all that decides about a picture's rows beside the picture itself."""
    facts: list[object] = [tower.identity(config.cache_dir)]
    facts += [build.llama_cpp_python, build.backends]
    facts += [config.image_min_tokens, config.image_max_tokens]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
