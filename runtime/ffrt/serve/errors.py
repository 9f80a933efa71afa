"""What goes wrong in the server, beside the errors of the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ffrt.errors import FfrtError


class ServeError(FfrtError):
    """The server cannot start, or cannot go on."""


class StoreError(ServeError):
    """The table of jobs could not be read or written: a full disk, a damaged file."""


class PlaceLost(ServeError):
    """A place is gone: its process was killed, or was silent for too long. `began` says whether it had got the job."""

    def __init__(self, message: str, *, began: bool = True) -> None:
        super().__init__(message)
        self.began = began


class Refused(FfrtError):
    """A request that is answered with an error, in the form that OpenAI's clients read.

    `status` is that of HTTP, `code` a word for programs, `param` the field at fault.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The body of the answer."""
        return error_body(self.status, self.code, str(self), self.param)


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, dict[str, str | None]]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
