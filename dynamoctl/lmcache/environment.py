"""LMCache's settings, checked because LMCache silently drops invalid ones.

LMCache reads `LMCACHE_<KEY>`. It turns a value that does not parse into None with one warning, reads `yes` as
false, and ignores an unknown name (lmcache==0.5.3:v1/config.py, v1/config_base.py). The engine then serves
without a cache. In dynamoctl, each of these is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest

PREFIX = "LMCACHE_"

# The keys of lmcache 0.5.3 by type; a test compares them with the installed package.
_KEYS_BY_TYPE: dict[str, str] = {
    "int": """
        blend_min_tokens blocking_timeout_secs chunk_size
        chunk_statistics_auto_exit_target_unique_chunks gds_buffer_size
        internal_api_server_port_start lmcache_worker_heartbeat_delay_time
        lmcache_worker_heartbeat_time lookup_timeout_ms min_retrieve_tokens mp_port
        nixl_buffer_size pd_buffer_size pd_max_prefill_len pd_proxy_port pin_check_interval_sec
        pin_timeout_sec priority_limit
""",
    "float": """
        chunk_statistics_auto_exit_timeout_hours hit_miss_ratio lazy_memory_expand_trigger_ratio
        lazy_memory_initial_ratio lazy_memory_safe_size lazy_memory_step_ratio maru_pool_size
        max_hidden_state_cpu_size max_local_cpu_size max_local_disk_size pd_allocation_timeout_sec
        pd_condition_poll_interval_sec pd_shutdown_timeout_sec reserve_local_cpu_size
""",
    "bool": """
        chunk_statistics_auto_start_statistics enable_async_loading enable_blending
        enable_chunk_statistics enable_controller enable_hidden_state_cache enable_kv_events
        enable_lazy_memory_allocator enable_p2p enable_pd enable_scheduler_bypass_lookup
        internal_api_server_enabled local_cpu local_cpu_use_hugepages pd_bidirectional
        pd_skip_proxy_notification py_enable_gc save_decode_cache save_unfull_chunk use_gds
        use_gpu_connector_v3 use_layerwise
""",
    "list of int": """
        blend_check_layers hidden_state_layers internal_api_server_include_index_list
        lmcache_worker_ids lmcache_worker_ports lookup_server_worker_ids p2p_init_ports
        p2p_lookup_ports pd_peer_alloc_port pd_peer_init_port pd_peer_query_port
""",
    "list of float": """
        blend_recompute_ratios blend_thresholds
""",
    "list of str": """
        nixl_backends remote_storage_plugins retrieve_locations runtime_plugin_locations
        script_allowed_imports storage_plugins
""",
    "json": """
        extra_config
""",
    "str": """
        app_id audit_actual_remote_url blend_special_str cache_policy chunk_statistics_strategy
        controller_pull_url controller_reply_url external_lookup_client gds_backend gds_path
        gds_path_sharding internal_api_server_host
        internal_api_server_socket_path_prefix lmcache_instance_id local_disk
        local_disk_path_sharding maru_path mp_host nixl_buffer_device numa_mode p2p_host
        pd_backend_mode pd_buffer_device pd_peer_host pd_proxy_host pd_role
        pre_caching_hash_algorithm remote_config_url remote_serde remote_url store_location
        transfer_channel
""",
    "choice": """
        hidden_states_retrieve_mode
""",
}
KEYS: dict[str, str] = {key: kind for kind, keys in _KEYS_BY_TYPE.items() for key in keys.split()}

# Variables that LMCache reads outside its configuration; they are passed on unchanged.
_PROCESS_VARIABLES = """
    LMCACHE_CONFIG_FILE LMCACHE_LOG_LEVEL LMCACHE_LOG_FORMAT LMCACHE_TRACK_USAGE LMCACHE_USAGE_TRACK_URL
    LMCACHE_USAGE_TRACK_INTERVAL LMCACHE_DISABLE_BANNER LMCACHE_USE_EXPERIMENTAL LMCACHE_FORCE_SKIP_SAVE
    LMCACHE_MQ_TIMEOUT LMCACHE_SERVER_URL LMCACHE_OFFLOAD_RPC_PORT LMCACHE_GPU_STAGING_BUFFER_BYTES
    LMCACHE_RUNTIME_PLUGIN_CONFIG LMCACHE_REQUEST_TELEMETRY_TYPE LMCACHE_REQUEST_TELEMETRY_ENDPOINT
    LMCACHE_MP_TRANSFER_MODE
"""
PROCESS_VARIABLES = frozenset(_PROCESS_VARIABLES.split())
# Prefixes of variables that belong to one storage backend or to another program of LMCache.
PROCESS_PREFIXES = (
    "LMCACHE_RESP_",
    "LMCACHE_AEROSPIKE_",
    "LMCACHE_COORDINATOR_",
    "LMCACHE_MP_COORDINATOR_",
    "LMCACHE_CONTROLLER_",
    "LMCACHE_EC_",
)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([mgt])(i?)b?)?", re.IGNORECASE | re.ASCII)
# A pattern for sizes above 0 in a JSON schema (ECMA 262 patterns have no flags).
SIZE_PATTERN = r"^\s*([0-9]*[1-9][0-9]*(\.[0-9]+)?|0+\.[0-9]*[1-9][0-9]*)\s*([mMgGtT]([iI]?[bB]?))?\s*$"
_POWER = {"m": 2, "g": 3, "t": 4}
# Keys whose values may have a unit. They are converted to GiB, because LMCache takes a number of GiB.
SIZES = frozenset({"max_local_cpu_size", "max_local_disk_size", "reserve_local_cpu_size"})


def gib(text: str) -> float:
    """A size in GiB, from `20` (GiB), `20GiB`, `20G` (GiB, as in LMCache) or `20GB` (powers of ten).

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"'{text}' is not a size: write it as in 20 (GiB), 20GiB or 20GB")
    number, unit, binary = float(match[1]), match[2], match[3]
    if not unit:
        return number
    decimal = not binary and match[0].lower().endswith("b")
    return number * float(1000 if decimal else 1024) ** _POWER[unit.lower()] / 1024**3


def _integer(value: str) -> None:
    int(value)


def _number(value: str) -> None:
    if not math.isfinite(float(value)) and value.strip().lower() != "inf":
        raise ValueError


def _boolean(value: str) -> None:
    if value.strip().lower() not in {"true", "false", "1", "0"}:
        raise ValueError


def _json_object(value: str) -> None:
    if not isinstance(json.loads(value), dict):
        raise ValueError


def _integers(value: str) -> None:
    for part in value.split(","):
        if part.strip():
            int(part)


def _numbers(value: str) -> None:
    for part in value.split(","):
        if part.strip():
            float(part)


def _retrieve_mode(value: str) -> None:
    if value.strip().lower().replace("-", "_") not in {"prefix_strict", "skip_missing_chunks"}:
        raise ValueError


_CHECKS: dict[str, tuple[Callable[[str], None], str]] = {
    "int": (_integer, "a whole number, as in 256"),
    "float": (_number, "a number without a unit, as in 20 (a size is in GiB)"),
    "bool": (_boolean, "True or False (LMCache reads every other word as False)"),
    "json": (_json_object, "a JSON object"),
    "list of int": (_integers, "comma-separated whole numbers, as in 0,1"),
    "list of float": (_numbers, "comma-separated numbers, as in 0.1,0.2"),
    "choice": (_retrieve_mode, "prefix_strict or skip_missing_chunks"),
}
_POSITIVE = frozenset({"chunk_size", "max_local_cpu_size"})


def check_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's `LMCACHE_*` variables, checked; sizes are converted to GiB without a unit.

    Raises:
        SpecError: a name is unknown (the hint has the nearest known one), or LMCache would drop or misread a
            value.
    """
    variables = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    for name, value in sorted(variables.items()):
        if name in PROCESS_VARIABLES or name.startswith(PROCESS_PREFIXES):
            continue
        variables[name] = check(name, value)
    return variables


def check(name: str, value: str) -> str:
    """The value of one variable, in a form that LMCache reads correctly.

    Raises:
        SpecError: as `check_environment`.
    """
    key = name.removeprefix(PREFIX).lower()
    kind = KEYS.get(key)
    if kind is None or name != name.upper():
        known = [PREFIX + other.upper() for other in KEYS] + sorted(PROCESS_VARIABLES)
        raise SpecError(
            f"LMCache has no setting {name} and would silently ignore it",
            nearest(name.upper(), known),
        )
    test, wanted = _CHECKS.get(kind, (lambda _: None, ""))
    given = value
    try:
        if key in SIZES:
            value = f"{gib(value):.6g}"
        test(value)
        if key in _POSITIVE and float(value) <= 0:
            raise ValueError
    except (ValueError, RecursionError):
        value, hint = given, f"set it to {wanted}"
        if kind == "float" and key not in SIZES and _SIZE.fullmatch(value.strip()):
            hint = f"set it in GiB, without a unit: {name}={gib(value):g}"
        # A JSON object may hold a password; values of other kinds cannot.
        given = name if kind == "json" else f"{name}={value}"
        raise SpecError(f"LMCache would silently drop {given} and run without it", hint) from None
    return value
