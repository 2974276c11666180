"""The fit: what was left on auto becomes as much as the devices hold, and each choice says why.

What is given up first is valued least: the KV cache's type, then cells beyond those that a machine
without a GPU has, then the encoder's place on the GPU, then layers on the GPU, then cells. So a
larger GPU never has a smaller context. What the operator set is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from server.errors import OutOfMemory
from server.memory.fit.explain import Prediction, explain, refuse
from server.memory.fit.pools import Pool
from server.memory.fit.search_space import CELL_STEP, Placement, SearchSpace
from server.messages import FitDecision

# Whether GPU number i has room for its share, given how many layers each GPU gets.
HasRoom = Callable[[int, tuple[int, ...]], bool]


def balanced(n_layers: int, rooms: Sequence[int]) -> tuple[int, ...]:
    """Layers for each GPU in proportion to its room."""
    total = sum(rooms)
    if total <= 0:
        return (n_layers, *[0] * (len(rooms) - 1))
    exact = [n_layers * room / total for room in rooms]
    counts = [int(share) for share in exact]
    by_rest = sorted(range(len(rooms)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: n_layers - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


def filled(n_layers: int, n_gpus: int, has_room: HasRoom) -> tuple[int, ...] | None:
    """Layers for each GPU where each in turn takes all that it can; None if some are left.

    llama.cpp gives each GPU consecutive layers, so where this finds none, there is no split.
    """
    counts: list[int] = []
    for gpu in range(n_gpus):
        left = n_layers - sum(counts)

        def fits(count: int, gpu: int = gpu, left: int = left) -> bool:
            rest = [left - count] if gpu + 1 < n_gpus else []
            zeros = [0] * (n_gpus - gpu - 1 - len(rest))
            return has_room(gpu, (*counts, count, *rest, *zeros))

        counts.append(_most(left, fits))
    return tuple(counts) if sum(counts) == n_layers else None


def _most(top: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to ``top`` that fits, where fewer always fit too; 0 if none does."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


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

    space: SearchSpace
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
            least = self.space.least()
            raise OutOfMemory(refuse(self.space, self.predict(least), self.pools))
        return Fitted(found, explain(self.space, found, self._excess))

    def unfitted(self) -> Fitted:
        """All that is wanted, whether it fits or not (--fit off)."""
        return Fitted(self.space.most(), ())

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
            space = self.space
            offload, cells = (than.n_gpu_layers, than.use_gpu), space.contexts()[1]
            cache = space.caches()[-1]
            found = space.place(offload, than.encoder_on_gpu, cells, cache, than.tensor_split)
        if found is None or found == than:
            return None
        return Fitted(found, explain(self.space, found, search._excess))

    def _excess(self, placement: Placement) -> dict[str, int]:
        """Bytes too many by pool, named by its first device; empty where it fits."""
        taken = self.predict(placement)
        over = {pool.devices[0]: pool.excess(taken.on) for pool in self.pools}
        return {name: excess for name, excess in over.items() if excess > 0}

    def most_layers(self, ctx_size: int) -> Placement | None:
        """The placement with most layers on GPUs beside so many cells; None where none fits."""
        return self._place(ctx_size)

    def largest_context(self, most: int) -> Placement | None:
        """The placement with the most cells, up to ``most``; None where not even a few fit.

        What was set besides is kept; of all else as much gives way as has to.
        """
        return self._largest(CELL_STEP, most, self._place)

    def _search(self) -> Placement | None:
        space = self.space
        most, least = space.contexts()
        usual = space.usual_context()
        found = self._place(usual)
        if found is None and least < usual:
            return self._largest(least, usual, self._place)
        if found is None:
            return None
        return self._raise(found, most)

    def _place(self, ctx_size: int) -> Placement | None:
        """As many layers on GPUs as fit beside so many cells, then the encoder."""
        space, cache = self.space, self.space.caches()[-1]
        found: Placement | None = None
        for encoder in space.encoders():
            for offload in space.offloads():
                if found is not None and offload[0] <= found.n_gpu_layers:
                    break
                fits = self._try(space.place(offload, encoder, ctx_size, cache))
                if fits is not None:
                    found = fits
                    break
        return found

    def _largest(
        self, least: int, most: int, place: Callable[[int], Placement | None]
    ) -> Placement | None:
        """What ``place`` finds for the most cells from ``least`` to ``most``."""
        best = place(least)
        if best is None or least >= most:
            return best
        if (whole := place(most)) is not None:
            return whole
        low, high = least // CELL_STEP, -(-most // CELL_STEP)
        while low < high:
            middle = (low + high + 1) // 2
            fits = place(min(middle * CELL_STEP, most))
            if fits is not None:
                low, best = middle, fits
            else:
                high = middle - 1
        return best

    def _raise(self, found: Placement, most: int) -> Placement:
        """More cells where nothing was given up for these, and a better cache, if they fit."""
        space = self.space
        whole = (found.n_gpu_layers, found.use_gpu) == space.offloads()[0]
        best = found
        if whole and found.encoder_on_gpu == space.encoders()[0]:
            best = (
                self._largest(
                    found.ctx_size, most, lambda cells: self._try(self._resized(found, cells))
                )
                or found
            )
        for key, value in space.caches():
            fits = self._try(replace(best, cache_type_k=key, cache_type_v=value))
            if fits is not None:
                return fits
        return best

    def _resized(self, placement: Placement, ctx_size: int) -> Placement:
        return replace(placement, ctx_size=ctx_size, parallel=self.space.slots(ctx_size))

    def _try(self, placement: Placement) -> Placement | None:
        """The placement if it fits, with the layers spread so that it does."""
        if not self._spreads(placement):
            return placement if not self._excess(placement) else None
        if not self._excess(even := replace(placement, tensor_split=self._balanced(placement))):
            return even
        counts = filled(
            placement.n_gpu_layers,
            len(self.space.gpus),
            lambda gpu, counts: self._has_room(placement, gpu, counts),
        )
        if counts is None:
            return None
        packed = replace(placement, tensor_split=counts)
        return packed if not self._excess(packed) else None

    def _spreads(self, placement: Placement) -> bool:
        """Whether the split is ours to choose."""
        several = len(self.space.gpus) > 1 and placement.n_gpu_layers > 0
        return several and not self.space.options.tensor_split

    def _balanced(self, placement: Placement) -> tuple[int, ...]:
        """By the room that is left beside what lies on each GPU anyway."""
        bare = self.predict(replace(placement, n_gpu_layers=0, tensor_split=()))
        rooms = [
            max(pool.room - bare.on(gpu.name), 0)
            for pool, gpu in zip(self.pools, self.space.gpus, strict=False)
        ]
        return balanced(placement.n_gpu_layers, rooms)

    def _has_room(self, placement: Placement, gpu: int, counts: tuple[int, ...]) -> bool:
        taken = self.predict(replace(placement, tensor_split=counts))
        return self.pools[gpu].excess(taken.on) <= 0
