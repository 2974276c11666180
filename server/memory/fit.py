"""The fit: what was left on auto becomes as much as the devices hold, and each choice says why.

What is given up first is valued least: the KV cache's type, then cells of the context, then the
encoder's place on the GPU, then layers on the GPU. What the operator set is never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from server.errors import OutOfMemory
from server.memory.fit_words import Prediction, explain, refuse
from server.memory.placement import Placement
from server.memory.pools import Pool
from server.memory.splits import balanced, filled
from server.memory.wants import CELL_STEP, Wants
from server.messages import FitDecision

Predict = Callable[[Placement], Prediction]
# Of what a plan took when llama.cpp failed for memory all the same, the next one takes this much.
_SMALLER = 0.9


@dataclass(slots=True, frozen=True)
class Fitted:
    """The placement that was found, and how each setting came to be what it is."""

    placement: Placement
    decisions: tuple[FitDecision, ...]


@dataclass(slots=True, frozen=True)
class Fit:
    """One search: what is wanted, what a placement takes, and the pools that it may fill.

    The pools are those of the GPUs in their order, then that of the RAM.
    """

    wants: Wants
    predict: Predict
    pools: tuple[Pool, ...]

    def best(self) -> Fitted:
        """The placement that fits and keeps most of what is valued most.

        Raises:
            OutOfMemory: even the least that the operator's settings allow does not fit; the text
                has the figures.
        """
        found = self._search()
        if found is None:
            least = self.wants.least()
            raise OutOfMemory(refuse(self.wants, self.predict(least), self.pools))
        return Fitted(found, explain(self.wants, found, self._excess))

    def unfitted(self) -> Fitted:
        """All that is wanted, whether it fits or not (--fit off)."""
        return Fitted(self.wants.most(), ())

    def smaller(self, than: Placement, *, on_gpu: bool) -> Fitted | None:
        """The next smaller plan after this one failed for memory, on a GPU or in the RAM.

        None where nothing smaller is left to the fit.
        """
        taken = self.predict(than)
        ram = len(self.pools) - 1
        pools = tuple(
            replace(pool, room=min(pool.room, int(_SMALLER * sum(map(taken.on, pool.devices)))))
            if (index < ram) == on_gpu
            else pool
            for index, pool in enumerate(self.pools)
        )
        search = replace(self, pools=pools)
        found = search._search()
        if found is None and not on_gpu:
            # Weights do not shrink: where nine tenths are out of reach, the least there is.
            wants = self.wants
            offload, cells = (than.n_gpu_layers, than.use_gpu), wants.contexts()[1]
            cache = wants.caches()[-1]
            found = wants.place(offload, than.encoder_on_gpu, cells, cache, than.tensor_split)
        if found is None or found == than:
            return None
        return Fitted(found, explain(self.wants, found, search._excess))

    def _excess(self, placement: Placement) -> dict[str, int]:
        """Bytes too many by pool, named by its first device; empty where it fits."""
        taken = self.predict(placement)
        over = {pool.devices[0]: pool.excess(taken.on) for pool in self.pools}
        return {name: excess for name, excess in over.items() if excess > 0}

    def _search(self) -> Placement | None:
        wants = self.wants
        _, least_cells = wants.contexts()
        cache = wants.caches()[-1]
        found: Placement | None = None
        for encoder in wants.encoders():
            for offload in wants.offloads():
                if found is not None and offload[0] <= found.n_gpu_layers:
                    break
                fits = self._try(wants.place(offload, encoder, least_cells, cache))
                if fits is not None:
                    found = fits
                    break
        return self._raise(found) if found is not None else None

    def _raise(self, least: Placement) -> Placement:
        """More cells and a better cache, as far as they fit beside these layers."""
        most, _ = self.wants.contexts()
        low, high = least.ctx_size // CELL_STEP, -(-most // CELL_STEP)
        best = least
        while low < high:
            middle = (low + high + 1) // 2
            fits = self._try(self._resized(least, min(middle * CELL_STEP, most)))
            if fits is not None:
                low, best = middle, fits
            else:
                high = middle - 1
        for key, value in self.wants.caches():
            fits = self._try(replace(best, cache_type_k=key, cache_type_v=value))
            if fits is not None:
                return fits
        return best

    def _resized(self, placement: Placement, ctx_size: int) -> Placement:
        return replace(placement, ctx_size=ctx_size, parallel=self.wants.slots(ctx_size))

    def _try(self, placement: Placement) -> Placement | None:
        """The placement if it fits, with the layers spread so that it does."""
        if not self._spreads(placement):
            return placement if not self._excess(placement) else None
        if not self._excess(even := replace(placement, tensor_split=self._balanced(placement))):
            return even
        counts = filled(
            placement.n_gpu_layers,
            len(self.wants.gpus),
            lambda gpu, counts: self._has_room(placement, gpu, counts),
        )
        if counts is None:
            return None
        packed = replace(placement, tensor_split=counts)
        return packed if not self._excess(packed) else None

    def _spreads(self, placement: Placement) -> bool:
        """Whether the split is ours to choose."""
        several = len(self.wants.gpus) > 1 and placement.n_gpu_layers > 0
        return several and not self.wants.wishes.tensor_split

    def _balanced(self, placement: Placement) -> tuple[int, ...]:
        """By the room that is left beside what lies on each GPU anyway."""
        bare = self.predict(replace(placement, n_gpu_layers=0, tensor_split=()))
        rooms = [
            max(pool.room - bare.on(gpu.name), 0)
            for pool, gpu in zip(self.pools, self.wants.gpus, strict=False)
        ]
        return balanced(placement.n_gpu_layers, rooms)

    def _has_room(self, placement: Placement, gpu: int, counts: tuple[int, ...]) -> bool:
        taken = self.predict(replace(placement, tensor_split=counts))
        return self.pools[gpu].excess(taken.on) <= 0
