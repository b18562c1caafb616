"""What the files of a model folder tell Dynamo's frontend, which reads them again beside the engine.

Seen with ai-dynamo==1.6.1 and its mocker: without one of these the frontend never lists the model, and only a
line of its log says so.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

# Where Dynamo looks for the end of a text, in this order.
# ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:missing eos_token_id in
_END_OF_TEXT = ("generation_config.json", "config.json", "tokenizer_config.json", "special_tokens_map.json")
_END_KEYS = ("eos_token_id", "eos_token")
# Methods of Python that templates have in transformers and not in Dynamo: a chat that comes to one gets HTTP
# 400, "Invalid request". Each was tried with ai-dynamo==1.6.1 (docs/guesses.md); there may be more.
_UNKNOWN_METHODS = re.compile(r"\.(index|partition|removeprefix|rsplit)\s*\(")


def read_json(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def has_tokenizer(folder: Path) -> bool:
    """Whether it holds a tokenizer that Dynamo's frontend can read.

    Source: ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:Provide a supported tokenizer file.
    """
    names = {file.name for file in folder.iterdir()}
    return bool(names & {"tokenizer.json", "tiktoken.model"}) or any(
        name.endswith(".tiktoken") for name in names
    )


def has_chat_template(folder: Path) -> bool:
    """Whether it holds a chat template, in one of the places in which Dynamo looks for one."""
    if (folder / "chat_template.jinja").is_file():
        return True
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (read_json(folder / name) or {}).get("chat_template"):
            return True
    return False


def unknown_methods(folder: Path) -> list[str]:
    """The methods in its chat templates that Dynamo's frontend cannot call, sorted; a comment's too."""
    texts = []
    with contextlib.suppress(OSError, ValueError):
        texts.append((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (read_json(folder / name) or {}).get("chat_template")
        named = template if isinstance(template, list) else [{"template": template}]
        texts += [
            one["template"] for one in named if isinstance(one, dict) and isinstance(one.get("template"), str)
        ]
    return sorted({method for text in texts for method in _UNKNOWN_METHODS.findall(text)})


def says_where_texts_end(folder: Path) -> bool:
    """Whether one of its files has an end-of-sequence token, or a part of one (text_config)."""
    tables = [read_json(folder / name) or {} for name in _END_OF_TEXT]
    parts = [part for table in tables for part in (table, *table.values()) if isinstance(part, dict)]
    return any(part.get(key) is not None for part in parts for key in _END_KEYS)


def what_it_is(folder: Path) -> tuple[str, str]:
    """What a folder without config.json holds instead, and what to do: both are empty if nobody can tell."""
    if (folder / "adapter_config.json").is_file():
        base = (read_json(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
        of = f" of {base}" if isinstance(base, str) and base else ""
        return f"it is a LoRA adapter{of}", "merge it into its base model and name the merged folder"
    if any(folder.glob("*.gguf")):
        return (
            "it holds a GGUF file, which vLLM no longer reads",
            "name the model's folder or hub id in safetensors",
        )
    if (folder / "params.json").is_file():
        return (
            "it has no config.json: params.json is Mistral's own format, which Dynamo's frontend does not"
            " read",
            "name the model's folder or hub id in the Hugging Face format",
        )
    return "", ""
