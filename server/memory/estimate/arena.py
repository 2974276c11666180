"""How ggml lays the tensors of a graph into one buffer, played through with sizes alone.

Tensors are allocated in the order of computing, each into the smallest hole that takes it, and
freed after their last use; some operations write over their input. What the buffer takes is
the farthest end ever reached, so holes and order matter and a sum of sizes would not do.
Source: ggml's ``ggml-alloc.c``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_ALIGNMENT = 64
_ENDLESS = 1 << 62


class Arena:
    """ggml's allocator of offsets: best fit among the holes, else at the end."""

    def __init__(self, alignment: int = _ALIGNMENT) -> None:
        self.size = 0
        self._alignment = alignment
        self._free: list[list[int]] = [[0, _ENDLESS]]  # [offset, bytes], by offset

    def take(self, size: int) -> int:
        """Allocate; returns the offset."""
        size = self.rounded(size)
        if not size:
            return 0
        holes = [block for block in self._free[:-1] if block[1] >= size]
        # Of equally good holes ggml takes the last one.
        best = min(reversed(holes), key=lambda block: block[1]) if holes else self._free[-1]
        offset = best[0]
        best[0] += size
        best[1] -= size
        if not best[1]:
            self._free.remove(best)
        self.size = max(self.size, offset + size)
        return offset

    def give(self, offset: int, size: int) -> None:
        """Free what was allocated; neighbouring holes become one."""
        size = self.rounded(size)
        if not size:
            return
        place = sum(block[0] < offset for block in self._free)
        self._free.insert(place, [offset, size])
        for index in (place, place - 1):
            if 0 <= index < len(self._free) - 1:
                one, two = self._free[index], self._free[index + 1]
                if one[0] + one[1] == two[0]:
                    one[1] += two[1]
                    del self._free[index + 1]

    def rounded(self, size: int) -> int:
        """``size`` up to the alignment."""
        return -(-size // self._alignment) * self._alignment


@dataclass(slots=True)
class _Node:
    size: int
    sources: tuple[int, ...]
    inplace: bool
    root: int | None  # of a view: the tensor that it looks at
    kept: bool = False
    offset: int = -1
    children: int = 0
    views: int = 0


@dataclass(slots=True)
class Tape:
    """The tensors of a graph in the order of computing."""

    nodes: list[_Node] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    def input(self, size: int) -> int:
        """What is there before computing begins."""
        self.nodes.append(_Node(size, (), False, None))
        self.inputs.append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def op(self, size: int, *sources: int, inplace: bool = False, kept: bool = False) -> int:
        """A result of ``size`` bytes. ``inplace``: it may be written over a source."""
        self.nodes.append(_Node(size, sources, inplace, None, kept=kept))
        return len(self.nodes) - 1

    def view(self, source: int) -> int:
        """The same bytes in another shape."""
        one = self.nodes[source]
        root = source if one.root is None else one.root
        self.nodes.append(_Node(one.size, (source,), False, root))
        return len(self.nodes) - 1

    def peak(self, alignment: int = _ALIGNMENT) -> int:
        """Bytes of the buffer that the graph needs."""
        arena, nodes = Arena(alignment), self.nodes
        for node in nodes:
            node.children = node.views = 0
            node.offset = -1
        for node in nodes:
            if node.root is not None:
                nodes[node.root].views += 1
            for source in node.sources:
                nodes[source].children += 1
        for index in self.inputs:
            nodes[index].offset = arena.take(nodes[index].size)
        for node in nodes:
            if node.root is None and node.offset < 0 and not self._over(node):
                node.offset = arena.take(node.size)
            for source in node.sources:
                self._release(source, arena)
        return arena.size

    def _over(self, node: _Node) -> bool:
        """Write over a source that nothing else needs, if the operation can."""
        if not node.inplace:
            return False
        for source in node.sources:
            parent = self.nodes[source]
            if parent.root is not None or parent.kept or parent.offset < 0:
                continue  # ggml never writes over a view, even of unused bytes
            if parent.size == node.size and parent.children == 1 and not parent.views:
                node.offset, parent.offset = parent.offset, -2
                return True
        return False

    def _release(self, index: int, arena: Arena) -> None:
        node = self.nodes[index]
        node.children -= 1
        if node.children or node.views:
            return
        if node.root is None:
            self._free(node, arena)
            return
        owner = self.nodes[node.root]
        owner.views -= 1
        if not owner.views and not owner.children:
            self._free(owner, arena)

    def _free(self, node: _Node, arena: Arena) -> None:
        if node.offset >= 0 and not node.kept:
            arena.give(node.offset, node.size)
            node.offset = -2
