"""Families: makes the families of one registry, each labelled with the model's name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

# Seconds.
SHORT: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
LONG: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
GAPS: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5),
)
STEPS: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10),
)

TOKENS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
    *(10_000, 20_000, 50_000, 100_000, 200_000),
)
# Squares of the grids that towers have: 8, 12, 16, 24 tokens, and several such squares.
IMAGE_TOKENS: Final = (16, 36, 64, 144, 256, 576, 1152, 1728, 2304, 2928, 4096, 8192)
PIXELS: Final = tuple(
    int(megapixels * 1e6) for megapixels in (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 12, 25, 50, 100)
)
TILES: Final = (1, 2, 3, 4, 5, 7, 10, 13)
PICTURES: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)


class QuickHistogram:
    """Counts without a lock and without walking the buckets: a tenth of the library's cost.

    To be observed from one thread only, the event loop's.
    """

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Mapping[str, str]
    ) -> None:
        self.name = name
        self.text = text
        self.labels = dict(labels)
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one value; a bucket holds what is at most its bound, as Prometheus has it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily) -> None:
        """Adds these buckets to a family that is being scraped."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        totals = accumulate(self._counts)
        buckets = [(name, float(total)) for name, total in zip(names, totals, strict=True)]
        family.add_metric(list(self.labels.values()), buckets, self._sum)


class QuickHistograms(Collector):
    """One family of quick histograms, which differ in their label values."""

    def __init__(self, *members: QuickHistogram) -> None:
        self._members = members

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family as it is now."""
        first = self._members[0]
        family = HistogramMetricFamily(first.name, first.text, labels=list(first.labels))
        for member in self._members:
            member.add_to(family)
        yield family


MODEL = "model_name"


class Families:
    """Label values are bound once, here, so that counting looks nothing up."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self.registry = registry
        self.model = model

    def counter(self, name: str, text: str) -> Counter:
        """A counter of the model."""
        return Counter(name, text, (MODEL,), registry=self.registry).labels(self.model)

    def counters(self, name: str, text: str, label: str, values: Iterable[str]) -> Counters:
        """A counter for each value of ``label``; those named begin at 0 rather than absent."""
        family = Counter(name, text, (MODEL, label), registry=self.registry)
        return Counters(family, self.model, values)

    def many(self, name: str, text: str, *labels: str) -> Counter:
        """A counter with several more labels, to be bound by the caller, the model's name first."""
        return Counter(name, text, (MODEL, *labels), registry=self.registry)

    def gauge(self, name: str, text: str) -> Gauge:
        """A gauge of the model."""
        return Gauge(name, text, (MODEL,), registry=self.registry).labels(self.model)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        """A histogram of the model."""
        family = Histogram(name, text, (MODEL,), registry=self.registry, buckets=buckets)
        return family.labels(self.model)

    def histograms(
        self, name: str, text: str, buckets: tuple[float, ...], label: str, values: Iterable[str]
    ) -> dict[str, Histogram]:
        """A histogram for each value of ``label``."""
        labels = (MODEL, label)
        family = Histogram(name, text, labels, registry=self.registry, buckets=buckets)
        return {value: family.labels(self.model, value) for value in values}

    def quick(
        self, name: str, text: str, buckets: tuple[float, ...], **labels: str
    ) -> QuickHistogram:
        """A histogram that may be observed for every token; not registered yet."""
        return QuickHistogram(name, text, buckets, {MODEL: self.model, **labels})


class Counters:
    """The children of one counter by the value of its label."""

    def __init__(self, family: Counter, model: str, values: Iterable[str]) -> None:
        self._family = family
        self._model = model
        self._children = {value: family.labels(model, value) for value in values}

    def inc(self, value: str) -> None:
        """Counts one. The caller sees to it that there are few distinct values."""
        child = self._children.get(value)
        if child is None:
            child = self._children[value] = self._family.labels(self._model, value)
        child.inc()
