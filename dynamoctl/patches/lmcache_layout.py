"""Two models of one name whose KV caches differ: a data type, a quantization, a revision.

LMCache's server finds a chunk by the model's name, the rank and a hash of the tokens. With one disk or Redis
for `--dtype bfloat16` and `--dtype float16` it hands each the chunks of the other, and counts hits. With
float32 and a disk, it reads the first half of a chunk that is too long. The answers are wrong.

With the patch the name that LMCache gets says how the KV cache is made.
"""

from __future__ import annotations

import hashlib
from typing import Any

from dynamoctl.patches.base import Patch, wrap


def layout(config: Any) -> str:
    """What tells the KV caches of a model apart: `bfloat16`, or `bfloat16-0f1e2d3c` if more than that is set.

    Args:
        config: a `VllmConfig`.
    """
    model, dtype = config.model_config, str(config.model_config.dtype).removeprefix("torch.")
    cache = str(config.cache_config.cache_dtype)
    more = [None if cache in ("auto", dtype) else cache, model.quantization, model.revision]
    if not any(more):
        return dtype
    return f"{dtype}-{hashlib.sha256(repr(more).encode()).hexdigest()[:8]}"


def name_with_layout(adapter: Any, config: Any) -> None:
    """Have an adapter get the model's name with its layout.

    Args:
        adapter: LMCache's `LMCacheMPSchedulerAdapter` or `LMCacheMPWorkerAdapter`.
        config: the `VllmConfig` of this process.
    """

    def around(plain: Any) -> Any:
        def init(self: Any, *words: Any, model_name: str, **named: Any) -> None:
            plain(self, *words, model_name=f"{model_name}-{layout(config)}", **named)

        return init

    wrap(adapter, "__init__", around, PATCH.name)


def before_connectors(factory: Any) -> None:
    """Change LMCache's adapters when vLLM makes its connector: it has its configuration then.

    Args:
        factory: vLLM's `KVConnectorFactory`.
    """

    def around(plain: Any) -> Any:
        def create_connector(config: Any, *words: Any, **named: Any) -> Any:
            from lmcache.integration.vllm import vllm_multi_process_adapter as adapters

            name_with_layout(adapters.LMCacheMPSchedulerAdapter, config)
            name_with_layout(adapters.LMCacheMPWorkerAdapter, config)
            return plain(config, *words, **named)

        return create_connector

    wrap(factory, "create_connector", around, PATCH.name)


def _change(_value: str) -> None:
    from vllm.distributed.kv_transfer.kv_connector import factory

    before_connectors(factory.KVConnectorFactory)


PATCH = Patch(
    name="lmcache-layout",
    variable="DYNAMOCTL_LMCACHE_LAYOUT",
    package="lmcache",
    versions=("0.5.6", "0.5.3"),
    upstream="lmcache==0.5.6:lmcache/v1/distributed/api.py:ObjectKey",
    without="one store for two data types gives wrong answers",
    change=_change,
)
