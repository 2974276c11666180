"""A llama.cpp context: the KV cache of all sequences, and the decode call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from server.cache_types import CACHE_TYPES
from server.engine.llama.model import Model
from server.errors import StartupError

_NO_CELLS = 1
_WINDOW_ONLY = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
# enum llama_flash_attn_type
FLASH_ATTENTION = {None: -1, False: 0, True: 1}


class Batch:
    """A ``llama_batch`` over NumPy arrays of ours, so that filling it costs slices, not loops.

    A batch carries token ids or embeddings, never both (llama.h): ``n_embd`` 0 makes it one of
    token ids. Embeddings take ``n_sections`` positions each, 4 with M-RoPE.
    """

    def __init__(self, capacity: int, n_embd: int = 0, n_sections: int = 1) -> None:
        self.capacity = capacity
        self.size = 0
        self._token = np.zeros(capacity, np.int32)
        self._embd = np.zeros((capacity, n_embd), np.float32)
        self._sections = np.zeros((n_sections, capacity), np.int32)
        # What llama.cpp reads: section after section, each as long as the batch is now.
        self._pos = np.zeros(n_sections * capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._n_seq = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        addresses = self._seq.ctypes.data + self._seq.itemsize * np.arange(capacity)
        self._seq_rows = addresses.astype(np.uintp)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=None if n_embd else _pointer(self._token, llama_cpp.llama_token),
            embd=_pointer(self._embd, ctypes.c_float) if n_embd else None,
            pos=_pointer(self._pos, llama_cpp.llama_pos),
            n_seq_id=_pointer(self._n_seq, ctypes.c_int32),
            seq_id=_pointer(self._seq_rows, ctypes.POINTER(llama_cpp.llama_seq_id)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def clear(self) -> None:
        """Empties the batch."""
        self.size = 0

    def add(self, rows: NDArray[Any], position: int, seq_id: int, *, want_last: bool) -> int:
        """Appends token ids [n] or embeddings [n, n_embd] of one sequence.

        ``want_last`` asks for the logits of the last row. Returns that row's index.
        """
        first, end = self.size, self.size + len(rows)
        (self._token if rows.ndim == 1 else self._embd)[first:end] = rows
        self._sections[:, first:end] = np.arange(position, position + len(rows))
        self._seq[first:end] = seq_id
        self._logits[first:end] = 0
        self._logits[end - 1] = want_last
        self.size = end
        return end - 1

    def want_all(self) -> None:
        """Asks for an output of every row."""
        self._logits[: self.size] = 1

    def place(self, first: int, sections: NDArray[np.int32]) -> None:
        """Puts rows from ``first`` on at M-RoPE's positions, int32 [4, n]."""
        self._sections[:, first : first + sections.shape[1]] = sections

    def seal(self) -> llama_cpp.llama_batch:
        """The batch as llama.cpp takes it; valid until rows are added."""
        used = self._sections[:, : self.size]
        self._pos[: used.size] = used.ravel()
        self.struct.n_tokens = self.size
        return self.struct


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


class Context:
    """Owns a ``llama_context`` with one unified KV cache for ``n_seq_max`` sequences."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_seq_max: int,
        n_batch: int,
        n_ubatch: int,
        threads: int,
        cache_types: tuple[str, str] = ("f16", "f16"),
        flash_attn: bool | None = None,
    ) -> None:
        """Allocates cache and compute buffers.

        ``cache_types`` are those of keys and values; ``flash_attn`` None lets llama.cpp choose.

        Raises:
            StartupError: there is not enough memory, or the parameters do not fit the model.
        """
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_ubatch = min(n_ubatch, n_batch)
        params.n_seq_max = n_seq_max
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE  # we pool ourselves
        params.type_k, params.type_v = (CACHE_TYPES[name].number for name in cache_types)
        params.flash_attn_type = FLASH_ATTENTION[flash_attn]
        params.no_perf = True
        self._exact_keys = cache_types[0] in {"f16", "f32"}
        self.handle: Any = llama_cpp.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise StartupError(
                f"llama.cpp cannot make a context of {n_ctx} cells for {model.path.name}"
                " (out of memory? try a smaller --ctx-size)"
            )
        self.n_ctx = int(llama_cpp.llama_n_ctx(self.handle))
        self._memory: Any = llama_cpp.llama_get_memory(self.handle)

    def close(self) -> None:
        """Frees the cache and the buffers."""
        if self.handle:
            llama_cpp.llama_free(self.handle)
            self.handle = None

    def decode(self, batch: Batch) -> bool:
        """Runs the batch. False where the cache has no cells left and nothing was changed.

        Raises:
            RuntimeError: llama.cpp failed; the context's state is unknown.
        """
        result = llama_cpp.llama_decode(self.handle, batch.seal())
        if result == _NO_CELLS:
            return False
        if result != 0:
            raise RuntimeError(f"llama_decode returned {result}")
        return True

    def logits(self, row: int, n_vocab: int) -> NDArray[np.float32]:
        """Logits of batch row ``row``, float32 [n_vocab]; it must have been asked for.

        A view: what is written there is what samplers see, and the next decode replaces it.
        """
        pointer = llama_cpp.llama_get_logits_ith(self.handle, row)
        address = ctypes.addressof(pointer.contents)
        memory: Any = (ctypes.c_float * n_vocab).from_address(address)
        logits: NDArray[np.float32] = np.frombuffer(memory, np.float32)
        return logits

    @contextmanager
    def hidden_states(self) -> Iterator[None]:
        """Within the block decodes output hidden states, and every row of a batch is an output.

        Source: llama_set_embeddings, llama_context::decode; memory for as many outputs as there
        are sequences is reserved anyway.
        """
        llama_cpp.llama_set_embeddings(self.handle, True)
        try:
            yield
        finally:
            llama_cpp.llama_set_embeddings(self.handle, False)

    def states(self, count: int, width: int) -> NDArray[np.float32]:
        """The last decode's hidden states after the final norm, float32 [count, width], copied."""
        pointer = llama_cpp.llama_get_embeddings(self.handle)
        if not pointer:
            raise RuntimeError("llama.cpp has no hidden states of this model")
        states: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (count, width)).copy()
        return states

    def forget(self, seq_id: int) -> None:
        """Frees the cells of a sequence that no other one shares."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def share(self, source: int, target: int, end: int, start: int = 0) -> None:
        """Lets ``target`` have the cells of ``source`` from ``start`` to ``end``, at no cost.

        These are positions, the last one excluded.
        """
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, start, end)

    def save(self, seq_id: int, *, window_only: bool = False) -> NDArray[np.uint8]:
        """A copy of a sequence's cells with their positions, uint8 [n].

        Of a sliding window's layers only what has not left it; ``window_only``: only these layers.
        Source: llama_state_seq_get_data_ext.

        Raises RuntimeError where llama.cpp cannot, MemoryError.
        """
        flags = _WINDOW_ONLY if window_only else 0
        size = llama_cpp.llama_state_seq_get_size_ext(self.handle, seq_id, flags)
        state = np.empty(size, np.uint8)
        target = _pointer(state, ctypes.c_uint8)
        if llama_cpp.llama_state_seq_get_data_ext(self.handle, target, size, seq_id, flags) != size:
            raise RuntimeError("llama.cpp cannot copy the cells of a sequence")
        return state

    def first_position(self, seq_id: int) -> int:
        """The position from which on a sequence has all its cells in every layer, -1 if none."""
        return int(llama_cpp.llama_memory_seq_pos_min(self._memory, seq_id))

    def restore(
        self, seq_id: int, state: NDArray[np.uint8], end: int, *, window_only: bool = False
    ) -> None:
        """Gives a sequence the cells of a copy, those before position ``end``; -1 is all.

        The sequence is empty; with ``window_only`` it keeps its cells in the other layers.
        Raises RuntimeError where there are not so many free cells as the whole copy has.
        """
        flags = _WINDOW_ONLY if window_only else 0
        source, size = _pointer(state, ctypes.c_uint8), state.nbytes
        if not llama_cpp.llama_state_seq_set_data_ext(self.handle, source, size, seq_id, flags):
            raise RuntimeError("llama.cpp found no free cells where the scheduler counted some")
        if end >= 0:
            llama_cpp.llama_memory_seq_rm(self._memory, seq_id, end, -1)

    @property
    def can_shift(self) -> bool:
        """Whether llama.cpp can shift cells to other positions without harm.

        It aborts where keys are bfloat16 (ggml_compute_forward_rope), and crashes where they are
        quantized and heads have no multiple of 64 numbers (build_rope_shift). Other quantized keys
        would need memory for two layers' keys of all cells as float32, which no plan counts.
        """
        return self._exact_keys and bool(llama_cpp.llama_memory_can_shift(self._memory))

    def copy_ranges(
        self, source: int, helper: int, ranges: Iterable[tuple[int, int]]
    ) -> NDArray[np.uint8]:
        """A copy of a sequence's cells in ranges of positions; ``helper`` is an empty sequence."""
        for start, end in ranges:
            self.share(source, helper, end, start)
        state = self.save(helper)
        self.forget(helper)
        return state

    def place_shifted(
        self, seq_id: int, state: NDArray[np.uint8], shifts: Sequence[tuple[int, int, int]]
    ) -> None:
        """Gives an empty sequence the cells of a copy in these ranges, shifted.

        Each is its first position in the copy, the one after its last, and by how much positions
        grow; they are in order before and after. Keys are rotated with the next decode; until then
        the cells must not be saved. Raises RuntimeError as ``restore``.
        """
        place = 0
        self.restore(seq_id, state, -1)
        for start, end, _ in shifts:
            llama_cpp.llama_memory_seq_rm(self._memory, seq_id, place, start)
            place = end
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, place, -1)
        # No range may meet another one that is still at its old place.
        forward = [each for each in reversed(shifts) if each[2] > 0]
        for start, end, shift in [*forward, *(each for each in shifts if each[2] < 0)]:
            llama_cpp.llama_memory_seq_add(self._memory, seq_id, start, end, shift)

    def attend_causally(self, causal: bool) -> None:
        """Whether rows see only those before them (the usual), or all of their sequence.

        Source: llama_set_causal_attn; a change rebuilds the graph and reserves no memory.
        """
        llama_cpp.llama_set_causal_attn(self.handle, causal)

    def clear(self) -> None:
        """Frees all cells."""
        llama_cpp.llama_memory_clear(self._memory, True)
