"""Numbers of places for Prometheus, read from the places themselves whenever they are asked for.

Nothing is kept between two readings. A place of a Ray cluster moves from one machine to another, and a series of the
machine that it left would stay as it was for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ffrt.serve.engine.executor import Place, Replaced


class Places(Collector):
    """The numbers of places as they are now; `served` is the version, the bundle's name and its digest."""

    def __init__(self, places: Iterable[Place], served: Sequence[str]) -> None:
        self._places, self._served = tuple(places), tuple(served)

    def text(self) -> bytes:
        """The numbers, as Prometheus reads them."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """As the library wants it."""
        up = GaugeMetricFamily("ffrt_place_up", "warmed up and alive", labels=["place", "device"])
        busy = GaugeMetricFamily("ffrt_place_busy", "runs a job", labels=["place"])
        restarts = CounterMetricFamily("ffrt_place_restarts", "processes replaced", labels=["place", "reason"])
        info = GaugeMetricFamily(
            "ffrt_build_info", "what is served", labels=["version", "bundle", "digest", "provider"]
        )
        for place in self._places:
            up.add_metric([place.id, place.device], place.ready)
            busy.add_metric([place.id], place.current is not None)
            for reason in Replaced:  # all from the start, since Prometheus sees no increase in a number that is new
                restarts.add_metric([place.id, reason], place.restarts.get(reason, 0))
        for provider in sorted({place.provider for place in self._places if place.provider is not None}):
            info.add_metric([*self._served, provider], 1)
        yield from (up, busy, restarts, info)
