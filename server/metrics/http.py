"""HTTP requests by route and status."""

from __future__ import annotations

from prometheus_client import Counter

from server.metrics.families import Families


class HttpMetrics:
    """Counts answers. Labels are bound once for each pair of route and status."""

    def __init__(self, families: Families) -> None:
        self._model = families.model
        self._family = families.many(
            "llava_http_requests", "HTTP requests answered, by route and status", "route", "status"
        )
        self._children: dict[tuple[str, int], Counter] = {}

    def answered(self, route: str, status: int) -> None:
        """One request; ``route`` is a path as it was declared, so there are few of them."""
        child = self._children.get((route, status))
        if child is None:
            child = self._family.labels(self._model, route, str(status))
            self._children[route, status] = child
        child.inc()
