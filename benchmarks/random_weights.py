"""Write random weights for a Llama's config.json, so that a start loads what a real model's would.

    python benchmarks/random_weights.py FOLDER_WITH_CONFIG NEW_FOLDER

The new folder gets the old one's small files and shards of bfloat16 of about 4 GB. The text of such a
model is noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARD_BYTES = 4 * 10**9


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a Llama: (name, shape)."""
    hidden, inner, vocabulary = (
        config["hidden_size"],
        config["intermediate_size"],
        config["vocab_size"],
    )
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{at}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{at}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{at}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (vocabulary, hidden)


def write(source: Path, target: Path) -> int:
    """Write the folder; give back the bytes of weights in it."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, target / file.name)
    config = json.loads((source / "config.json").read_text())
    shard: dict[str, Any] = {}
    places: dict[str, str] = {}
    size = total = number = 0

    def flush() -> None:
        nonlocal shard, size, number
        name = f"model-{number:05}.safetensors"
        save_file(shard, target / name, {"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard, size, number = {}, 0, number + 1

    for name, shape in shapes(config):
        tensor = torch.randn(shape, dtype=torch.bfloat16, device=device).mul_(0.02).cpu()
        shard[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
        if size > SHARD_BYTES:
            flush()
    if shard:
        flush()
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    print(f"{write(options.source, options.target) / 1e9:.1f} GB of weights in {options.target}")
