"""Families: makes the families of one registry, each labelled with the model's name."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.metrics.quick import QuickHistogram

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
