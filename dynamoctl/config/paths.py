"""Relative paths, made absolute: every unit runs in an empty folder of its own.

A path in the environment or on the command line is relative to the caller's folder, one in a TOML file to the
file's folder. A name that can also be that of a model on the hub counts as a path if it exists there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamoctl.humanize import path_of
from dynamoctl.lmcache.tables import PREFIX

# Variables that hold one path, of the engine's packages and what they stand on; a test compares them with the
# installed packages.
_PATH_VARIABLES = """
    BT_CREDENTIALS_PATH CUDA_CACHE_PATH CUDA_HOME CUDA_PATH CURL_CA_BUNDLE DYN_AIS_PERF_CONFIG
    DYN_AUDIT_OUTPUT_PATH DYN_BENCHMARK_OUTPUT_PATH DYN_BENCH_KV_WARMUP_CACHE_DIR
    DYN_CUSTOM_JINJA_TEMPLATE DYN_DUMP_CONFIG_TO DYN_FPM_BENCHMARK_OUTPUT_PATH DYN_FPM_OUTPUT_PATH
    DYN_LOGGING_CONFIG_PATH DYN_LORA_MCF_CONFIG DYN_LORA_PATH DYN_MM_LOCAL_PATH
    DYN_REQUEST_TRACE_FILE_PATH DYN_REQUEST_TRACE_OUTPUT_PATH DYN_ROUTER_POLICY_CONFIG
    DYN_ROUTER_TRACKING_KEY_FILE DYN_TCP_TLS_CA_CERT_PATH DYN_TCP_TLS_CERT_PATH
    DYN_TCP_TLS_CLIENT_CA_CERT_PATH DYN_TCP_TLS_CLIENT_CERT_PATH DYN_TCP_TLS_CLIENT_KEY_PATH
    DYN_TCP_TLS_KEY_PATH ETCD_AUTH_CA ETCD_AUTH_CLIENT_CERT ETCD_AUTH_CLIENT_KEY
    FLASHINFER_WORKSPACE_BASE HF_ASSETS_CACHE HF_HOME HF_HUB_CACHE HF_MODULES_CACHE HF_TOKEN_PATH
    HF_XET_CACHE HUGGINGFACE_ASSETS_CACHE HUGGINGFACE_HUB_CACHE LMCACHE_CONFIG_FILE
    LMCACHE_CONTROLLER_CONFIG_FILE MODEL_EXPRESS_CACHE_PATH MOONCAKE_CONFIG_PATH
    MOONCAKE_STORAGE_ROOT_DIR NATS_TLS_CA_CERT_PATH NATS_TLS_CLIENT_CERT_PATH NATS_TLS_CLIENT_KEY_PATH
    NCCL_CONF_FILE NCCL_GRAPH_FILE NCCL_TOPO_FILE NIXL_PLUGIN_DIR OUTLINES_CACHE_DIR REQUESTS_CA_BUNDLE
    SSL_CERT_DIR SSL_CERT_FILE TMPDIR TORCHINDUCTOR_CACHE_DIR TORCH_EXTENSIONS_DIR TORCH_HOME
    TRANSFORMERS_CACHE TRITON_CACHE_DIR TRITON_HOME UCX_MODULE_DIR VLLM_ASSETS_CACHE VLLM_CACHE_ROOT
    VLLM_CONFIG_ROOT VLLM_CUDART_SO_PATH VLLM_CUDA_COMPATIBILITY_PATH VLLM_DEBUG_DUMP_PATH
    VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR VLLM_LOGGING_CONFIG_PATH VLLM_LORA_RESOLVER_CACHE_DIR
    VLLM_MEDIA_CACHE VLLM_MODEL_REDIRECT_PATH VLLM_NCCL_INCLUDE_PATH VLLM_NCCL_SO_PATH
    VLLM_RPC_BASE_PATH VLLM_TUNED_CONFIG_FOLDER VLLM_XLA_CACHE_PATH XDG_CACHE_HOME XDG_CONFIG_HOME
"""
VARIABLES = frozenset(_PATH_VARIABLES.split())
# Variables that hold several, with os.pathsep between them.
LISTS = frozenset({"LD_LIBRARY_PATH", "PATH", "PYTHONPATH"})
# Of other variables of an engine, a value that begins as a relative path does is one.
_ENGINE_PREFIXES = (
    "CUDA_", "DYN_", "FLASHINFER_", "HF_", "NCCL_", "NIXL_", "NVSHMEM_", "TORCH", "TRITON_", "UCX_",
    "VLLM_",
)  # fmt: skip
# Options of dynamo.vllm and of vLLM's engine; a test asks their parsers for more.
_PATH_OPTIONS = """
    --allowed-local-media-path --benchmark-output-path --benchmark-points-file --config
    --custom-jinja-template --download-dir --dump-config-to --log-config-file
    --mm-encoder-fp8-scale-path --mm-encoder-fp8-scale-save-path --nats-tls-ca-cert-path
    --nats-tls-client-cert-path --nats-tls-client-key-path --reasoning-parser-plugin
    --router-policy-config --router-tracking-key-file --tcp-tls-ca-cert-path --tcp-tls-cert-path
    --tcp-tls-client-ca-cert-path --tcp-tls-client-cert-path --tcp-tls-client-key-path
    --tcp-tls-key-path
"""
OPTIONS = frozenset(_PATH_OPTIONS.split())
# Options that take the name of a model on the hub, or a keyword, as well as a path.
NAME_OR_PATH = frozenset({"--generation-config", "--hf-config-path", "--tokenizer"})
_KEYWORDS = frozenset({"auto", "vllm"})
# In `[lmcache]`: the folders of tiers, several with commas between them, by dynamoctl's and LMCache's names.
_FOLDERS = ("disk", "gds", "local_disk", "gds_path")


def here() -> Path:
    """The caller's folder; without one (it was removed), relative paths stay as they are."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


def absolute(path: str, base: Path) -> str:
    """A path against a folder; `~` is the user's home."""
    return str(base / path_of(path))


def of_environment(env: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The variables, each relative path absolute; only text can be a path."""
    return {
        name: _variable(name, value, base) if isinstance(value, str) else value for name, value in env.items()
    }


def of_caller(environ: Mapping[str, str], base: Path) -> dict[str, str]:
    """Those variables of the caller's environment that hold a relative path, with an absolute one.

    LMCache's are not among them: they become settings.
    """
    known = {
        name: value
        for name, value in environ.items()
        if (name in VARIABLES | LISTS or name.startswith(_ENGINE_PREFIXES)) and not name.startswith(PREFIX)
    }
    return {name: value for name, value in of_environment(known, base).items() if value != known[name]}


def of_arguments(words: Sequence[str], base: Path) -> tuple[str, ...]:
    """Engine arguments, each relative path absolute."""
    found, option = [], ""
    for word in words:
        if not word.startswith("-"):
            found.append(_argument(option, word, base))
            continue
        name, equals, value = word.partition("=")
        option = name.replace("_", "-")
        found.append(f"{name}={_argument(option, value, base)}" if equals else word)
    return tuple(found)


def of_table(values: dict[str, Any], base: Path) -> None:
    """Make the relative paths in a TOML file absolute, in place. Values of a wrong type are left alone."""
    for key in ("engine_args", "decode_args", "prefill_args"):
        words = values.get(key)
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            values[key] = list(of_arguments(words, base))
    model, cache = values.get("model"), values.get("lmcache")
    if isinstance(model, str) and (_is_relative(model) or _exists(model, base)):
        values["model"] = absolute(model, base)
    for table in (values, cache):
        if isinstance(table, dict) and isinstance(table.get("env"), dict):
            table["env"] = of_environment(table["env"], base)
    if isinstance(cache, dict):
        for key in _FOLDERS:
            if isinstance(folders := cache.get(key), str) and folders.strip() and "://" not in folders:
                cache[key] = ",".join(absolute(folder.strip(), base) for folder in folders.split(","))
        if "l2" in cache:
            cache["l2"] = _inner(cache["l2"], base)


def _variable(name: str, value: str, base: Path) -> str:
    if name in LISTS:
        # An empty entry means the folder in which the program runs, which is empty.
        return os.pathsep.join(entry and absolute(entry, base) for entry in value.split(os.pathsep))
    if name in VARIABLES and _may_be_path(value):
        return absolute(value, base)
    return absolute(value, base) if _is_relative(value) else value


def _argument(option: str, value: str, base: Path) -> str:
    if value.startswith(("{", "[")):
        return _json(value, base)
    if option in OPTIONS and _may_be_path(value):
        return absolute(value, base)
    if option in NAME_OR_PATH and value not in _KEYWORDS and _exists(value, base):
        return absolute(value, base)
    for mark in ("@", "="):  # a file with the value; NAME=PATH
        before, found, path = value.partition(mark)
        if found and _is_relative(path):
            return f"{before}{mark}{absolute(path, base)}"
    return absolute(value, base) if _is_relative(value) else value


def _json(text: str, base: Path) -> str:
    """JSON with the paths in it; the same text if there are none, or if it is not JSON."""
    try:
        given = json.loads(text)
        found = _inner(given, base)
    except (ValueError, RecursionError):
        return text
    return text if found == given else json.dumps(found, separators=(",", ":"))


def _inner(value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        return {key: _inner(inner, base) for key, inner in value.items()}
    if isinstance(value, list):
        return [_inner(inner, base) for inner in value]
    return absolute(value, base) if isinstance(value, str) and _is_relative(value) else value


def _is_relative(value: str) -> bool:
    """Whether it can be nothing but a path that depends on the folder or on the user."""
    return value.startswith(("./", "../", "~/"))


def _may_be_path(value: str) -> bool:
    """Not empty, no URL, no PEM text, and nothing that the engine expands by itself."""
    return bool(value) and "://" not in value and "\n" not in value and not value.startswith(("$", "-----"))


def _exists(name: str, base: Path) -> bool:
    try:
        return bool(name) and (base / name).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
