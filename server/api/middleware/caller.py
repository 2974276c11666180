"""Who asks: the name of the API key that the request at hand came with."""

from __future__ import annotations

from contextvars import ContextVar

# Empty where no key is needed. What a caller keeps here belongs to the name, not to the key, so
# that a key can be exchanged for a new one.
caller: ContextVar[str] = ContextVar("caller", default="")
