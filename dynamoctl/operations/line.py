"""A line to a deployment's supervisor, for requests that take their time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from dynamoctl.errors import DynamoctlError, NotReadyError
from dynamoctl.state import DeploymentDir

Told = Callable[[str], None]


class Line:
    """A request to the supervisor of a deployment, and what it says until the answer.

    Raises:
        NotReadyError: it does not answer.
    """

    def __init__(self, folder: DeploymentDir, request: dict[str, Any]) -> None:
        self._folder = folder
        self._held: list[dict[str, Any]] = []
        try:
            descriptor = os.open(folder.path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            raise self._gone() from None
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # By way of the open folder: a socket's path may have no more than 107 bytes.
            self._socket.connect(f"/proc/self/fd/{descriptor}/{folder.socket.name}")
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            self._lines = self._socket.makefile("rb")
        except OSError:
            self._socket.close()
            raise self._gone() from None
        finally:
            os.close(descriptor)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def until_accepted(self) -> None:
        """Wait for the first thing that it says."""
        self._held.append(self._next())

    def answer(self, told: Told) -> dict[str, Any]:
        """Wait for the answer.

        Args:
            told: called with each thing that it says before.

        Raises:
            DynamoctlError: it is an error.
        """
        while True:
            said = self._held.pop(0) if self._held else self._next()
            if "error" in said:
                raise DynamoctlError.from_json(said["error"])
            if "told" not in said:
                return said
            if said["told"]:
                told(said["told"])

    def _next(self) -> dict[str, Any]:
        try:
            said = json.loads(self._lines.readline() or b"null")
        except (OSError, ValueError):
            said = None
        if not isinstance(said, dict):
            raise self._gone()
        return said

    def _gone(self) -> NotReadyError:
        name = self._folder.name
        return NotReadyError(
            f"the supervisor of '{name}' has ended or does not answer", f"see: dynamoctl status -n {name}"
        )
