"""The memory, use and temperature of this machine's GPUs, where NVIDIA's library (NVML) tells them."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ffrt.serve.engine.executor import GPU, Place

logger = logging.getLogger("ffrt.serve")
OWN = re.compile(rf"gpu ({GPU.pattern})")


@dataclass(frozen=True)
class Reading:
    """A GPU now: bytes, a share from 0 to 1, degrees Celsius; None for what the card or its driver does not tell."""

    used: int | None = None
    total: int | None = None
    utilisation: float | None = None
    celsius: float | None = None


class Nvml:
    """The library as nvidia-ml-py gives it: opened at the first reading, and again after a fault."""

    def __init__(self, library: Any = None) -> None:
        """`library` stands in for the module `pynvml`."""
        self._library, self._open = library, False

    def read(self, gpu: str) -> Reading:
        """The GPU of that number, as nvidia-smi counts, or of that id.

        Raises what the library raises where there is no driver.
        """
        nvml = self._opened()
        try:
            by_number = gpu.isdecimal()
            handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if by_number else nvml.nvmlDeviceGetHandleByUUID(gpu)
            memory = self._asked(nvml.nvmlDeviceGetMemoryInfo, handle)
            rates = self._asked(nvml.nvmlDeviceGetUtilizationRates, handle)
            celsius = self._asked(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        except nvml.NVMLError:  # a GPU that was lost, or a driver that was reset: the next reading begins anew
            self._open = False
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
            raise
        return Reading(
            used=None if memory is None else memory.used,
            total=None if memory is None else memory.total,
            utilisation=None if rates is None else rates.gpu / 100,
            celsius=celsius,
        )

    def _opened(self) -> Any:
        if self._library is None:
            import pynvml

            self._library = pynvml
        if not self._open:
            self._library.nvmlInit()
            self._open = True
        return self._library

    def _asked(self, function: Callable[..., Any], *args: object) -> Any:
        """None for a number that a card does not have or tell; raises every other error of the library.

        A part of a card (MIG) has no use and no temperature of its own. Asked for them, it is "not supported" or an
        "invalid argument".
        """
        nvml = self._library
        try:
            return function(*args)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission, nvml.NVMLError_InvalidArgument):
            return None


def own_gpus(places: Iterable[Place]) -> dict[str, str]:
    """The GPUs of places on this machine, by the place; other machines' GPUs cannot be read here."""
    found = [(place.id, OWN.fullmatch(place.device)) for place in places]
    return {id: match[1] for id, match in found if match is not None}


class Gpus(Collector):
    """Gauges that are read when they are asked for. A driver that fails or hangs costs these and no other number."""

    def __init__(self, gpus: Mapping[str, str], read: Callable[[str], Reading]) -> None:
        """`gpus` are the numbers or ids of the places' GPUs, by the place."""
        self._gpus, self._read = gpus, read
        self._reading = threading.Lock()
        self._failed: set[str] = set()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, without a reading."""
        yield from _families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A reading of every GPU; nothing while another one has not come back."""
        memory, utilisation, temperature = _families()
        if self._reading.acquire(blocking=False):
            try:
                for place, gpu in self._gpus.items():
                    now = self._now(gpu)
                    for kind, value in (("used", now.used), ("total", now.total)):
                        if value is not None:
                            memory.add_metric([place, kind], value)
                    if now.utilisation is not None:
                        utilisation.add_metric([place], now.utilisation)
                    if now.celsius is not None:
                        temperature.add_metric([place], now.celsius)
            finally:
                self._reading.release()
        yield from (memory, utilisation, temperature)

    def _now(self, gpu: str) -> Reading:
        try:
            reading = self._read(gpu)
        except Exception as error:  # of a driver anything may come
            if gpu not in self._failed:
                logger.warning("GPU %s: nothing of it can be measured: %s", gpu, error)
            self._failed.add(gpu)
            return Reading()
        self._failed.discard(gpu)
        return reading


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("ffrt_gpu_memory_bytes", "memory of a place's GPU", labels=["place", "kind"]),
        GaugeMetricFamily("ffrt_gpu_utilisation", "share of time with work, 0 to 1", labels=["place"]),
        GaugeMetricFamily("ffrt_gpu_temperature_celsius", "temperature of a place's GPU", labels=["place"]),
    )
