"""What a service manager is told: systemd waits for these words of a unit with `Type=notify`. See sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger("ffrt.serve")


def ready(status: str) -> None:
    """Requests are answered from now on."""
    _notify("READY=1", status)


def stopping(status: str) -> None:
    """The server ends, which takes a while."""
    _notify("STOPPING=1", status)


def _notify(word: str, status: str) -> None:
    """Send a word and a line for `systemctl status`; nothing happens where no manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name without a file
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(f"{word}\nSTATUS={' '.join(status.split())}".encode())
    except OSError as error:
        logger.warning("NOTIFY_SOCKET: the service manager could not be told %s (%s)", word, error)
