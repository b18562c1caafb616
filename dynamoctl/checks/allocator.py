"""torch's expandable segments, which do not go together with a KV connector.

With them, torch may put other memory behind an address, and a connector has registered what was there before.
vLLM refuses them with any connector, under the older name of the variable; torch reads the newer name first.
Sources: vllm==0.31.0:vllm/config/vllm.py:_verify_kv_transfer_compat and
vllm==0.31.0:vllm/device_allocator/alloc_conf.py:ALLOC_CONF_ENV_VARS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan, Unit

# In the order in which torch reads them: the first that is set counts. vLLM looks at the second alone.
_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_REFUSED = "PYTORCH_CUDA_ALLOC_CONF"
_SEGMENTS = "expandable_segments"
# With vLLM's own allocator, the KV cache is in memory that stays.
_OWN_ALLOCATOR = frozenset({"--enable-cumem-allocator", "--enable-sleep-mode"})


def _allocator(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    for unit in plan.workers:
        finding = _of_worker(plan, unit, unit.environ(os.environ))
        if finding is not None:
            return [finding]  # the others have the same environment
    return []


def _of_worker(plan: DeploymentPlan, unit: Unit, environ: Mapping[str, str]) -> Finding | None:
    if not unit.kv_transfer_config or not _OWN_ALLOCATOR.isdisjoint(
        word.replace("_", "-") for word in unit.argv
    ):
        return None
    connector = unit.kv_transfer_config["kv_connector"]
    # vLLM looks for these very words, on every device.
    if f"{_SEGMENTS}:True" in environ.get(_REFUSED, ""):
        return Finding(
            Level.ERROR,
            f"{_REFUSED}={environ[_REFUSED]}: vLLM refuses {_SEGMENTS} with {connector}",
            f"unset it, or take {_SEGMENTS} out of it",
            "a KV connector registers the memory of the KV cache, and torch may then exchange that memory",
        )
    name = next((name for name in _VARIABLES if environ.get(name)), "")
    if plan.device != "cuda" or not name or not _has_segments(environ[name]):
        return None
    # In process, LMCache copies by address and registers nothing.
    registers = plan.lmcache == "mp" or connector != "LMCacheConnectorV1"
    return Finding(
        Level.ERROR if registers else Level.WARNING,
        f"{name}={environ[name]}: {_SEGMENTS} do not go together with {connector}",
        f"unset it, or take {_SEGMENTS} out of it",
        f"vLLM refuses them in {_REFUSED} and does not look here: the KV cache would be in memory that torch"
        " may exchange, and KV transfers fail",
    )


def _has_segments(conf: str) -> bool:
    """Whether a configuration of torch's allocator, `KEY:VALUE,...`, switches expandable segments on."""
    pairs = [field.partition(":") for field in conf.split(",")]
    return any(key.strip() == _SEGMENTS and value.strip().lower() in ("true", "1") for key, _, value in pairs)


def _ok(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return ""


CHECK = Check("allocator", _allocator, _ok)
