"""How layers are spread over several GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
