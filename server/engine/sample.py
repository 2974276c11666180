"""What was sampled after a request's last position."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import LlavaError
from server.messages import TokenLogprob


@dataclass(slots=True)
class Sample:
    """A token; ``ended``: the request's grammar allows nothing after it.

    With an ``error`` there is none, and the request is over.
    """

    token: int
    logprob: TokenLogprob | None = None
    ended: bool = False
    error: LlavaError | None = None
