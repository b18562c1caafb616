"""Watch that all workers have registered the same copy of the model: answers are wrong otherwise."""

from __future__ import annotations

import asyncio
import time

from dynamoctl import policies
from dynamoctl.errors import DynamoctlError, NotReadyError
from dynamoctl.host.processes import listeners
from dynamoctl.monitoring import model_cards
from dynamoctl.monitoring.model_cards import ModelCard
from dynamoctl.supervisor import failures, lifecycle
from dynamoctl.supervisor.deployment import Deployment


async def watch_cards(deployment: Deployment) -> None:
    """Keep `mismatched_models` up to date, forever."""
    while True:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        await _look(deployment)


async def require_same(deployment: Deployment) -> None:
    """Check, at the end of a start, that this host's workers registered the same model as all others.

    On a host without the frontend a difference ends the start at once, so that the part that came last
    leaves. A host with the frontend first waits for the other host to leave.

    Raises:
        NotReadyError: they did not.
    """
    frontend = deployment.frontend
    patience_s = policies.REGISTERS_S if frontend is None else policies.MISMATCHED_S
    began = time.monotonic()
    while True:
        registered = await _look(deployment)
        if registered is None:
            return  # etcd does not answer: the watch looks again when it does
        cards, mismatched = registered
        is_late = time.monotonic() - began > patience_s
        if mismatched and (frontend is None or is_late):
            raise NotReadyError("; ".join(mismatched), model_cards.FIX)
        if not mismatched and (frontend is not None or is_late or _all_are_there(deployment, cards)):
            return
        deployment.set_phase_of_frontend("; ".join(mismatched))
        failures.require_all(deployment)
        await asyncio.sleep(lifecycle.GATE_INTERVAL_S)


def _all_are_there(deployment: Deployment, cards: list[ModelCard]) -> bool:
    """Whether each worker of this host has registered its card, which it may do after its gate has opened."""
    here = {card.instance for card in cards if _is_here(deployment, card)}
    return len(here) >= len(deployment.plan.workers)


def _is_here(deployment: Deployment, card: ModelCard) -> bool:
    return card.address.rpartition(":")[0] == deployment.plan.address


async def _look(deployment: Deployment) -> tuple[list[ModelCard], list[str]] | None:
    """Compare what is registered, and record the result in the state.

    Returns:
        The cards and their disagreements; None if etcd does not answer.
    """
    cards = await asyncio.to_thread(_registered, deployment)
    if cards is None:
        return None
    mismatched = model_cards.disagreements(cards, {})
    if mismatched:
        mismatched = model_cards.disagreements(cards, await asyncio.to_thread(_names, deployment, cards))
    problems = [f"{mismatch}: {model_cards.FIX}" for mismatch in mismatched]
    if problems != deployment.state.mismatched_models:
        deployment.state.mismatched_models = problems
        deployment.degrade_or_recover()
        deployment.save()
    return cards, mismatched


def _registered(deployment: Deployment) -> list[ModelCard] | None:
    files = deployment.registrations
    if files is not None:
        return model_cards.registered(files.texts("mdc"), files.texts("instances"))
    try:
        etcd = deployment.etcd()
    except DynamoctlError:
        return None
    in_etcd = [etcd.registrations(kind, deployment.namespace) for kind in ("mdc", "instances")]
    entries = [one for one in in_etcd if one is not None]
    return model_cards.registered(*entries) if len(entries) == len(in_etcd) else None


def _names(deployment: Deployment, cards: list[ModelCard]) -> dict[str, str]:
    """Instance -> name of the unit, for the workers of this host."""
    workers = [member for member in deployment.members if member.unit.is_worker]
    unit_by_port: dict[str, str] = {}
    for worker, own in zip(workers, deployment.processes_of_each(workers), strict=True):
        unit_by_port |= dict.fromkeys(map(str, listeners(own)), worker.unit.name)
    return {
        card.instance: unit_by_port[port]
        for card in cards
        if _is_here(deployment, card) and (port := card.address.rpartition(":")[2]) in unit_by_port
    }
