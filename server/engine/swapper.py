"""Copies prompts between the KV cache and the RAM."""

from __future__ import annotations

import logging
import time

from server.engine.bindings.context import Context
from server.engine.plan import SwapIn, SwapOut
from server.engine.prompt_store import PromptStore

logger = logging.getLogger(__name__)


class Swapper:
    """Carries out what the scheduler decided, and tells the store how long it took."""

    def __init__(self, context: Context, store: PromptStore) -> None:
        self._context = context
        self._store = store

    def swap(self, change: SwapOut | SwapIn) -> None:
        """Copies one prompt. Raises RuntimeError where llama.cpp has not the cells for it."""
        start = time.perf_counter()
        if isinstance(change, SwapIn):
            assert change.prompt.state is not None, "only what was copied is found"
            self._context.restore(change.seq_id, change.prompt.state, change.end)
            self._store.copied_back(change.prompt, time.perf_counter() - start)
            return
        if change.prompt not in self._store.prompts:
            return  # others have taken its place within the same step
        try:
            state = self._context.save(change.seq_id)
        except MemoryError:
            logger.warning("no memory to keep a prompt of %d tokens", len(change.prompt.keys))
            self._store.drop(change.prompt)
            return
        self._store.fill(change.prompt, state, time.perf_counter() - start)
