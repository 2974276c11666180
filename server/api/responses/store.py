"""ResponseStore: responses that may be asked for again, or continued."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from server.api.caller import caller
from server.errors import NotFoundError


@dataclass(slots=True, frozen=True)
class StoredResponse:
    """A response, its input items, and the items of the whole conversation up to its end.

    All are as they are on the wire. ``size`` is the conversation's and the response's, in bytes.
    """

    response: dict[str, Any]
    input_items: tuple[dict[str, Any], ...]
    conversation: tuple[dict[str, Any], ...]
    size: int

    @classmethod
    def of(
        cls,
        response: dict[str, Any],
        before: tuple[dict[str, Any], ...],
        items: tuple[dict[str, Any], ...],
    ) -> StoredResponse:
        """``items`` are the request's own, ``before`` those of the responses before it."""
        conversation = (*before, *items, *response["output"])
        size = len(json.dumps(response)) + len(json.dumps(conversation))
        return cls(response, items, conversation, size)


class ResponseStore:
    """Keeps the responses that were used last, as many as fit ``max_count`` and ``max_bytes``.

    Each one holds its whole conversation, so that the loss of one never breaks another. It
    belongs to the key that it was made with; nobody else finds it.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, stored: StoredResponse) -> bool:
        """Keep one; those that were used longest ago make room. False where it is too large."""
        if self._max_count == 0 or stored.size > self._max_bytes:
            return False
        self._kept[_key(stored.response["id"])] = stored
        self.n_bytes += stored.size
        while len(self._kept) > self._max_count or self.n_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.n_bytes -= oldest.size
        return True

    def find(self, response_id: str) -> StoredResponse | None:
        """A response, which is now the one used last; None where there is none."""
        stored = self._kept.get(_key(response_id))
        if stored is not None:
            self._kept.move_to_end(_key(response_id))
        return stored

    def get(self, response_id: str) -> StoredResponse:
        """As ``find``, but raises NotFoundError."""
        stored = self.find(response_id)
        if stored is None:
            raise NotFoundError(
                f"no response {response_id[:100]!r} here: it was never stored, or made room for"
                " newer ones",
                param="response_id",
                code="response_not_found",
            )
        return stored

    def delete(self, response_id: str) -> None:
        """Forget a response. Raises NotFoundError."""
        self.n_bytes -= self.get(response_id).size
        del self._kept[_key(response_id)]


def _key(response_id: str) -> tuple[str, str]:
    return caller.get(), response_id
