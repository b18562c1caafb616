"""The table `[lmcache]`: what the user asks of the KV cache."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from dynamoctl import policies
from dynamoctl.config.choices import LMCacheMode
from dynamoctl.config.types import ADAPTERS_SCHEMA, AutoSize, Environment, Folder, Model, Size, StoreUrl
from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.lmcache import environment, remote_stores


class LMCacheSpec(Model):
    """The KV cache that outlives a request.

    Attributes:
        enabled: keep and reuse the KV cache; `--no-lmcache` or `ENABLE_LMCACHE=0` turns it off.
        mode: process of LMCache. `inproc`: the engine's own; `mp`: a cache server beside the engines; `auto`:
            `inproc` on GPUs, `mp` on a CPU, where the in-process connector cannot work.
        chunk_size: tokens per chunk. A prompt that is shorter than one chunk never hits.
        cpu_gb: CPU memory for the cache, in GiB: for each worker and rank with `inproc`, for the host with
            `mp`. None: 20 on GPUs, 1 on a CPU, and in total at most half of the available memory. `auto`: all
            available memory but a reserve.
        disk: folder of a tier on a local disk, or None.
        disk_gb: size of the disk tier, in GiB: for each worker and rank with `inproc`, for the host with
            `mp`.
        remote: URL of a store that several hosts or deployments can share, or None.
        gds: folder of a tier that GPUs access directly (GPUDirect Storage), or None.
        l2: further adapters of the cache server (`mp`), each a table with a `type`, as in the server's JSON.
        env: other `LMCACHE_*` variables, checked.
    """

    enabled: Annotated[bool, Field(strict=True)] = True
    mode: LMCacheMode = "auto"
    chunk_size: Annotated[int, Field(strict=True, ge=1, le=65536)] = policies.CHUNK_TOKENS
    cpu_gb: Annotated[AutoSize | None, Field(examples=[int(policies.CACHE_CPU_GIB["cuda"])])] = None
    disk: Annotated[Folder | None, Field(examples=["/var/cache/lmcache"])] = None
    disk_gb: Annotated[Size | None, Field(examples=[100])] = None
    remote: Annotated[
        StoreUrl | None, Field(examples=[kind.example for kind in remote_stores.KINDS.values()])
    ] = None
    gds: Annotated[Folder | None, Field(examples=["/mnt/nvme/lmcache"])] = None
    l2: Annotated[tuple[dict[str, Any], ...], WithJsonSchema(ADAPTERS_SCHEMA)] = ()
    env: Environment = Field(default_factory=dict, examples=[{"LMCACHE_LOG_LEVEL": "INFO"}])

    @field_validator("l2")
    @classmethod
    def _adapters_of_the_server(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for table in value:
            kind = table.get("type")
            if kind not in remote_stores.L2_ADAPTERS:
                hint = nearest(str(kind), remote_stores.L2_ADAPTERS) if kind else "give each table a type"
                raise ValueError(f"the cache server has no adapter of type {kind!r}: {hint}")
            try:
                json.dumps(table, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(
                    f"the server takes an adapter as JSON, and the table of type {kind!r} has a value that"
                    " JSON does not have"
                ) from None
        return value

    @model_validator(mode="after")
    def _a_disk_has_a_size(self) -> LMCacheSpec:
        if self.disk and self.disk_gb is None:
            raise SpecError(
                "lmcache.disk_gb: the disk tier has no size, and LMCache would not use it",
                "give one in GiB, as in --lmcache-disk-gb 100",
            )
        if self.disk_gb and not self.disk:
            raise SpecError(
                "lmcache.disk: the disk tier has a size but no folder",
                "name one, as in --lmcache-disk /var/cache/lmcache",
            )
        return self

    @field_validator("env")
    @classmethod
    def _only_settings_of_lmcache(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.startswith(environment.PREFIX):
                raise ValueError(f"{name} is not an LMCache setting: put it into [env]")
        return value
