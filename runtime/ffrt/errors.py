"""Every error that ffrt raises on purpose.

```
FfrtError
├── BundleError        the bundle is missing, damaged, newer than this ffrt, or breaks its own manifest
├── Cancelled          a request was ended by its cancel(), perhaps in the middle of a step
├── GraphInputError    a graph was given arrays that its contract does not allow, or could not run them
├── OutOfMemoryError   a request needs more memory than is free
├── OutputError        an output cannot go where it was asked to; what is there stays
│   └── VideoWriteError    a video could not be written; no partial file is left behind
├── PackageError       a package that ffrt needs is not installed; says what to type
├── ProviderError      the execution provider that was asked for cannot be had
└── RequestError       an argument of the caller is outside what the bundle or the sampler allows
    └── VideoReadError     a video of the caller is damaged, or of a kind that cannot be worked on
```
"""

from __future__ import annotations


class FfrtError(Exception):
    """Base of all errors of this package: catch it to catch them all."""


class BundleError(FfrtError):
    """The bundle is missing, damaged, newer than this ffrt, or breaks its own manifest."""


class Cancelled(FfrtError):
    """The request was ended by `Generation.cancel()` or `Pipeline.cancel()`; the pipeline can be used again."""


class GraphInputError(FfrtError):
    """A graph was given arrays that its contract does not allow, or could not run them."""


class OutOfMemoryError(FfrtError):
    """A request needs more memory than is free; says how much, and what would fit."""


class OutputError(FfrtError):
    """An output cannot go where it was asked to; what is there stays as it is."""


class PackageError(FfrtError, ImportError):
    """A package that ffrt needs is not installed; the message says what to type."""


class ProviderError(FfrtError):
    """The execution provider that was asked for is unknown, not in this build, or did not start."""


class RequestError(FfrtError, ValueError):
    """An argument is outside what the bundle or the sampler allows; nothing was run."""


class VideoReadError(RequestError):
    """A video of the caller is damaged, or of a kind that cannot be worked on; nothing was written."""


class VideoWriteError(OutputError):
    """A video could not be written; no partial file is left behind."""
