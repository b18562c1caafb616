"""Dynamo's file discovery, kept true: a dead worker's registrations go at once.

A registration is a file in the deployment's store, removed by others when its process has not touched it
for 10 s (Dynamo 1.4). Until then the router sends requests to it, and each fails: also when the worker
is back under another id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from dynamoctl.host.processes import Identity, listens

# In `instances` a file is named NAMESPACE/COMPONENT/ENDPOINT/ID, in `mdc` (model cards) too.
_SLASH = "%2F"


def remove_dead(store: Path, living: Iterable[Identity]) -> list[str]:
    """Remove what instances have registered whose request port none of `living` listens on.

    Returns:
        The ids of those instances.
    """
    identities = list(living)
    by_id: dict[str, list[Path]] = {}
    ports: dict[str, int] = {}
    for file in (*store.glob("v1/instances/*"), *store.glob("v1/mdc/*")):
        instance = file.name.rpartition(_SLASH)[2]
        by_id.setdefault(instance, []).append(file)
        port = _request_port(file)
        if port is not None:
            ports[instance] = port
    dead = [instance for instance, port in ports.items() if not listens(port, identities)]
    for instance in dead:
        for file in by_id[instance]:
            file.unlink(missing_ok=True)
    return dead


def _request_port(file: Path) -> int | None:
    """The port of an instance's `HOST:PORT/ID/ENDPOINT`; None where the file does not say one."""
    try:
        address = json.loads(file.read_text(encoding="utf-8"))["transport"]["tcp"]
        return int(address.partition("/")[0].rpartition(":")[2])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
