"""Every error that an export raises on purpose; `ffrt.FfrtError` is the base of all.

``
FfrtError
└── ExportError
    ├── BusyError          another process writes the same file
    ├── CheckpointError    a weight file, a configuration or a tokenizer is missing, damaged, unsafe or of another model
    │   └── MissingKeyError    the file has no tensor of this name
    ├── ConfigError        sizes of a network do not fit each other, or are not built here
    ├── DatasetError       a film or an archive that networks are trained on cannot be had, or is not the one meant
    ├── DiskFullError      the disk has no room; the same export goes on from there
    ├── DivergedError      the loss of a training is no number
    ├── MemoryShortError   the machine has too little free memory
    ├── OptionError        an argument of the command line is missing or out of range
    ├── PackageError       a Python package is missing
    ├── ParityError        a graph differs from its PyTorch module
    └── SceneError         a rendered clip or its caption was asked for something that the grammar has not
``
"""

from __future__ import annotations

from ffrt import errors
from ffrt.errors import FfrtError


class ExportError(FfrtError):
    """Base of all errors of `export`."""


class BusyError(ExportError):
    """Another process writes the same file."""


class CheckpointError(ExportError, ValueError):
    """A file is missing, damaged, unsafe or of another model; says file, key, what was expected and what it got."""


class MissingKeyError(CheckpointError, KeyError):
    """The file has no tensor or section of this name."""

    __str__ = Exception.__str__  # a KeyError shows its message in quotes


class ConfigError(ExportError, ValueError):
    """Sizes of a network do not fit each other, or ask for something that is not built here."""


class DatasetError(ExportError, ValueError):
    """A film or an archive cannot be had, or is not the one that was meant; the message says what to type."""


class DivergedError(ExportError):
    """The loss of a training is no number; its last checkpoint stays."""


class DiskFullError(ExportError):
    """The disk has no room for the weights. What was written stays: the same export goes on from there."""


class MemoryShortError(ExportError):
    """The machine has too little free memory; nothing was written."""


class OptionError(ExportError, ValueError):
    """An argument of the command line is missing or out of range; the message names it as it is typed."""


class PackageError(ExportError, errors.PackageError):
    """A Python package is missing; the message says how to install it."""


class ParityError(ExportError):
    """A graph differs from its PyTorch module by more than the floor; no bundle was written."""


class SceneError(ExportError, ValueError):
    """A rendered clip or its caption was asked for something that the grammar has not."""
