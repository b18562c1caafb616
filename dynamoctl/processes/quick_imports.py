"""Import large packages in less time."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from typing import Any

_ADAPTER = "--l2-adapter"


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Import with the garbage collector off.

    Nothing is freed by it while modules are made, and it takes a fifth of the time. Afterwards it leaves them
    alone: it would write to the memory of every module, which forked processes share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def without_building_models() -> Iterator[None]:
    """Import modules whose pydantic models are built when they are first used.

    A worker of Dynamo's uses few of vLLM's models of requests. To build them all takes 1.5 of the 11 CPU
    seconds of its imports, 0.9 for one of them (vllm==0.31.0:vllm/entrypoints/openai/responses/protocol.py).
    A model's own `defer_build` wins.
    """
    from pydantic import BaseModel

    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]


def only_named_adapters(factory: Any, arguments: Sequence[str]) -> None:
    """Have LMCache's server import the clients of no stores but those of its arguments.

    For the help of `--l2-adapter` it would import all of them: 3 of the 9 CPU seconds of its start, most of
    them for Google's Bigtable (lmcache==0.5.6:lmcache/v1/distributed/l2_adapters/config.py:
    add_l2_adapters_args). With another version than that nothing is changed.

    Args:
        factory: the module `lmcache.v1.distributed.l2_adapters.factory`.
        arguments: the server's.
    """
    pending = getattr(factory, "_PENDING_MODULES", None)
    if pending is None or not hasattr(factory, "load_all_adapters"):
        return
    named = tuple(f".{kind}_l2_adapter" for kind in _kinds(arguments))
    # A module that is needed is looked for from the first one on.
    pending.sort(key=lambda module: not module.endswith(named))
    factory.load_all_adapters = lambda: None


def _kinds(arguments: Sequence[str]) -> Iterator[str]:
    """The types of the adapters in the server's arguments."""
    words = iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option != _ADAPTER:
            continue
        with contextlib.suppress(ValueError):
            adapter = json.loads(value or next(words, ""))
            if isinstance(adapter, dict):
                yield str(adapter.get("type", ""))
