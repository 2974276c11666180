"""The Prometheus families. Each app has its own registry, so that tests can build several."""

from __future__ import annotations

from server.metrics.engine import MetricsSource
from server.metrics.requests import ABORTED, Metrics

__all__ = ["ABORTED", "Metrics", "MetricsSource"]
