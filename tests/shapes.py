"""Small models of several shapes with random weights: their text is noise, but the same noise each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

# Of each kind of KV cache that vLLM keeps. What is not named here is the family's default.
_COMMON: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 8192,
    # Wide enough that the next token depends on the whole prompt.
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "llama", "num_key_value_heads": 8, "head_dim": 64},
    "grouped": {"model_type": "llama", "num_key_value_heads": 2, "head_dim": 64},
    # The head sizes for which GPUs have kernels.
    "latent": {
        "model_type": "deepseek_v2",
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "head_dim": 64,
        "first_k_dense_replace": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
    },
    "mamba": {
        "model_type": "falcon_h1",
        "num_key_value_heads": 2,
        "head_dim": 64,
        "mamba_d_ssm": 1024,
        "mamba_n_heads": 16,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
    },
    "delta-net": {
        "model_type": "qwen3_next",
        "num_key_value_heads": 2,
        "head_dim": 64,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
}


def write(shape: str, like: Path, folder: Path) -> Path:
    """Write a model of a shape.

    Args:
        shape: a name in `SHAPES`.
        like: a model's folder whose tokenizer it gets, of at most as many tokens.
        folder: it is made.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**_COMMON, **SHAPES[shape]}
    torch.manual_seed(7)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (like / name).exists():
            shutil.copy(like / name, folder / name)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return folder
