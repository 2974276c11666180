"""The Prometheus families. Each app has its own registry, so that tests can build several."""

from __future__ import annotations

from server.metrics.engine import MetricsSource
from server.metrics.metrics import Metrics
from server.metrics.requests import ABORTED

__all__ = ["ABORTED", "Metrics", "MetricsSource"]
