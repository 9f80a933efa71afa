"""Model families: one file each, named in the manifest. A new one is a file here and a row of `FAMILIES`."""

from collections.abc import Mapping

from ffrt.families.contract import (
    DEEP,
    OPTIONAL_GRAPHS,
    OVER_PIXELS,
    SHALLOW,
    Contract,
    Signature,
    TensorSpec,
    deep_of,
    signature,
    with_shallow,
)
from ffrt.families.family import Family, Stage
from ffrt.families.kandinsky_1_0 import KANDINSKY_1_0
from ffrt.families.kandinsky_1_1 import KANDINSKY_1_1

FAMILIES: Mapping[str, Family] = {family.name: family for family in (KANDINSKY_1_0, KANDINSKY_1_1)}
"""Every value of the manifest's `family`."""

__all__ = [
    "DEEP",
    "FAMILIES",
    "KANDINSKY_1_0",
    "KANDINSKY_1_1",
    "OPTIONAL_GRAPHS",
    "OVER_PIXELS",
    "SHALLOW",
    "Contract",
    "Family",
    "Signature",
    "Stage",
    "TensorSpec",
    "deep_of",
    "signature",
    "with_shallow",
]
