"""The salts by which clients keep their KV caches apart (`cache_salt` in a request).

LMCache's client does not take every salt: it raises in the middle of vLLM's scheduler, and the engine ends.
Any client can send one. With the patch LMCache gets a digest of each salt, which it takes whatever the salt
was: the same one for the same salt, another one for another.
"""

from __future__ import annotations

import hashlib
from typing import Any

from dynamoctl.patches.base import Patch, wrap


def digest(salt: str) -> str:
    """What LMCache gets for a salt: 64 hexadecimal digits, and nothing for none."""
    return hashlib.sha256(salt.encode("utf-8", "surrogatepass")).hexdigest() if salt else ""


def encode_salts(adapter: Any) -> None:
    """Have an adapter of LMCache's make its keys of digests.

    Args:
        adapter: LMCache's `LMCacheMPSchedulerAdapter` or `LMCacheMPWorkerAdapter`.
    """

    def around(plain: Any) -> Any:
        def create_key(self: Any, *words: Any, cache_salt: str = "", **named: Any) -> Any:
            return plain(self, *words, cache_salt=digest(cache_salt), **named)

        return create_key

    wrap(adapter, "_create_key", around)


def _change(_value: str) -> None:
    from lmcache.integration.vllm import vllm_multi_process_adapter as adapters

    encode_salts(adapters.LMCacheMPSchedulerAdapter)
    encode_salts(adapters.LMCacheMPWorkerAdapter)


PATCH = Patch(
    name="lmcache-salt",
    variable="DYNAMOCTL_LMCACHE_SALT",
    package="lmcache",
    versions=("0.5.6", "0.5.3"),
    upstream="lmcache==0.5.6:lmcache/v1/distributed/api.py:ObjectKey.__post_init__",
    without="a client can end the engine by the salt of a request",
    change=_change,
    at_connector=True,
)
