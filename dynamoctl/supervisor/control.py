"""The control socket: what `status` asks the supervisor, and what changes the deployment.

Only the owner can connect to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import asdict
from functools import partial
from typing import Any

from dynamoctl.errors import DynamoctlError, InternalError
from dynamoctl.monitoring import observe
from dynamoctl.supervisor import changing
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.membership import Told

# Clients that may wait to be heard.
_BACKLOG = 100


async def listen(deployment: Deployment) -> asyncio.Server:
    """Answer at the control socket, in the folder that this process is in."""
    path = deployment.folder.socket
    # asyncio accepts as many at once as may wait. Without descriptors (Python 3.11) it tries each of them
    # again, and ever more: that took a whole core, and filled the disk with its log. So it accepts one at
    # a time, and more may wait.
    control = await asyncio.start_unix_server(partial(_answer, deployment), path=path.name, backlog=1)
    path.chmod(0o600)
    for listener in control.sockets:
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.listen(_BACKLOG)
    return control


async def _answer(deployment: Deployment, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one question: a fresh snapshot, or what became of a request (a JSON object).

    Before the answer to a request come lines that say what happens.
    """

    def told(what: str) -> None:
        if not writer.is_closing():
            writer.write(json.dumps({"told": what}).encode() + b"\n")

    with contextlib.suppress(ConnectionError):
        question = await reader.readline()
        is_request = question.startswith(b"{")
        answer = await (_do(deployment, question, told) if is_request else _snapshot(deployment))
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def _do(deployment: Deployment, request: bytes, told: Told) -> dict[str, Any]:
    """Do what is asked for. It is done to its end, also if the one who asks has gone."""
    try:
        (what, of), *_ = json.loads(request).items()
        if what == "change":
            return {"steps": [asdict(one) for one in await changing.change(deployment, int(of), told)]}
        if what == "drain":
            return {"seconds": await changing.drain(deployment, str(of), told)}
        if what == "undrain":
            return {"seconds": await changing.undrain(deployment, str(of))}
        raise ValueError(what)
    except DynamoctlError as error:
        return {"error": error.as_json()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {"error": InternalError(f"unknown request: {error!r}").as_json()}


async def _snapshot(deployment: Deployment) -> dict[str, Any]:
    units = deployment.state.units
    silent = {unit.name: unit.phase for unit in units if unit.state == "unresponsive"}
    seen, memory, remote = await asyncio.gather(
        observe.snapshot(deployment.plan, silent),
        asyncio.to_thread(_memory, deployment),
        asyncio.to_thread(_remote, deployment),
    )
    seen.memory, seen.remote = memory, remote
    return asdict(seen)


def _memory(deployment: Deployment) -> observe.Memory:
    there = zip(deployment.members, deployment.processes_of_each(deployment.members), strict=True)
    return observe.memory({m.unit.name: ([one.pid for one in own], m.unit.gpus) for m, own in there})


def _remote(deployment: Deployment) -> list[dict[str, str]] | None:
    """The deployment's workers on other hosts, as etcd knows them; None where it does not say."""
    plan = deployment.plan
    if plan.discovery == "file":
        return []
    try:
        known = deployment.etcd().instances(deployment.namespace)
    except DynamoctlError as error:
        say(error.message, "WARN")
        return None
    if known is None:
        return None
    # Besides the one that takes requests, a worker has endpoints for its own kind.
    serving = (one for one in known if one.endpoint == "generate")
    return [asdict(one) for one in serving if one.address.rpartition(":")[0] != plan.address]
