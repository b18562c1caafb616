"""The model cards that workers have registered, and whether those of one model agree. Pure.

A worker registers a card of the model that it serves: its name, the checksums of its configuration and
tokenizer files, its limits. The frontend takes the tokenizer and the template of one card for all workers of
a role. Dynamo 1.4 then sends requests to workers with another card as well, and their answers are wrong;
Dynamo 1.6 sends them none (measured with ai-dynamo==1.4.2 and ai-dynamo==1.6.1). The weights have no
checksum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

FIX = (
    "give every host the same model, a folder with the same files at the same path, and the same engine"
    " arguments; then take the wrong part down and start it again"
)
# Parts of a card that name the model itself, whatever the worker's role.
_OF_THE_MODEL = ("model_info", "tokenizer")
# Digits of a checksum that are shown.
_DIGITS = 8


@dataclass(frozen=True)
class ModelCard:
    """A registered model card.

    Attributes:
        model: the served name.
        component: Dynamo's component, which has all workers of one role.
        instance: id of the worker's instance, in hexadecimal.
        files: file name -> shortened checksum.
        own: the names in `files` that identify the model, and not how the frontend handles it.
        limits: what else the frontend compares, in words -> value. A card of Dynamo 1.4 has no path.
        address: where the worker takes requests; empty if its instance is not registered.
    """

    model: str
    component: str
    instance: str
    files: Mapping[str, str]
    own: frozenset[str]
    limits: Mapping[str, str]
    address: str = ""


def registered(cards: Iterable[str | bytes], instances: Iterable[str | bytes]) -> list[ModelCard]:
    """The cards among registrations; what is not one is left out.

    Args:
        cards: the entries below `v1/mdc/` of the discovery.
        instances: the entries below `v1/instances/`, which have the addresses.
    """
    addresses = {}
    for body in filter(None, map(_object, instances)):
        transport = body.get("transport")
        if isinstance(transport, dict) and (instance := _instance(body)):
            addresses[instance] = str(transport.get("tcp", "")).partition("/")[0]
    parsed = filter(None, map(_card, filter(None, map(_object, cards))))
    ordered = sorted(parsed, key=lambda card: (card.model, card.component, card.instance))
    return [replace(card, address=addresses.get(card.instance, "")) for card in ordered]


def disagreements(cards: Iterable[ModelCard], names: Mapping[str, str]) -> list[str]:
    """What workers registered differently, one sentence for each model.

    Workers of one role are compared in all that the frontend compares. Workers of different roles must only
    have the same configuration and tokenizer.

    Args:
        names: instance -> what to call its worker; otherwise it is called by its address.
    """
    by_model: dict[str, list[ModelCard]] = {}
    for card in cards:
        by_model.setdefault(card.model, []).append(card)
    found = []
    for model, copies in by_model.items():
        differences: dict[str, str] = {}
        for what, values in _compared(copies):
            if len(set(values.values())) > 1:
                differences.setdefault(what, f"{what} is {_listed(values, copies, names)}")
        if differences:
            found.append(f"workers registered different copies of {model}: {'; '.join(differences.values())}")
    return found


def _compared(copies: list[ModelCard]) -> Iterator[tuple[str, dict[str, str]]]:
    """(subject, instance -> value) of all that has to be the same."""
    groups = [copies] + [
        [card for card in copies if card.component == component]
        for component in sorted({card.component for card in copies})
    ]
    for number, group in enumerate(groups):
        subjects = {name for card in group for name in (card.own if number == 0 else card.files)}
        for name in sorted(subjects):
            yield name, {card.instance: card.files.get(name, "missing") for card in group}
        for name in sorted({name for card in group for name in card.limits} if number else ()):
            yield name, {card.instance: card.limits[name] for card in group if name in card.limits}


def _listed(values: Mapping[str, str], copies: Iterable[ModelCard], names: Mapping[str, str]) -> str:
    """Each value with the workers that have it."""
    workers: dict[str, list[str]] = {}
    for card in copies:
        if card.instance in values:
            worker = names.get(card.instance) or f"{card.component} at {card.address or card.instance}"
            workers.setdefault(values[card.instance], []).append(worker)
    in_order = sorted(workers.items(), key=lambda entry: sorted(entry[1]))
    return ", ".join(f"{value} ({', '.join(sorted(who))})" for value, who in in_order)


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _instance(body: Mapping[str, Any]) -> str:
    try:
        return format(int(body["instance_id"]), "x")
    except (KeyError, TypeError, ValueError):
        return ""


def _card(body: Mapping[str, Any]) -> ModelCard | None:
    card, instance = body.get("card_json"), _instance(body)
    if not isinstance(card, dict) or not instance or not isinstance(card.get("display_name"), str):
        return None
    own = {name for key in _OF_THE_MODEL for name, _ in _files(card.get(key))}
    return ModelCard(
        model=card["display_name"],
        component=str(body.get("component", "")),
        instance=instance,
        files=dict(_files(card)),
        own=frozenset(own),
        limits=dict(_limits(card)),
    )


def _files(part: Any) -> Iterator[tuple[str, str]]:
    """(file name, shortened checksum) of each file in a part of a card."""
    if isinstance(part, list):
        for each in part:
            yield from _files(each)
    elif isinstance(part, dict):
        path, checksum = part.get("path"), part.get("checksum")
        if isinstance(path, str) and isinstance(checksum, str):
            yield path.rpartition("/")[2], checksum.rpartition(":")[2][:_DIGITS]
        for each in part.values():
            yield from _files(each)


def _limits(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    runtime = card.get("runtime_config")
    length = runtime.get("context_length") if isinstance(runtime, dict) else None
    for name, value in (
        ("the model's path", card.get("source_path")),
        ("the context length", length or card.get("context_length") or None),
        ("the KV cache's block size", card.get("kv_cache_block_size")),
    ):
        if value is not None:
            yield name, str(value)
