"""A real model that costs next to nothing to serve, and what it says, computed here once more.

It is a Llama with random weights and the tokenizer of the built-in model. What depends on real text stays
with the built-in model; here an answer is right if it is that of `SmallModel.continues`, to the letter. So a
KV cache that was stored, sent or found has to be the right one, too.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAME = "small"
# In this format the text does not depend on what else is computed with it.
ENGINE_ARGS = ("--dtype", "float32")

_VOCABULARY = 49152
_LAYERS, _HIDDEN, _INNER = 4, 128, 256
_HEADS, _KV_HEADS, _HEAD = 2, 1, 64
_EPSILON = 1e-5
_THETA = 10000.0
# Wide enough that attention picks out single tokens: the next one depends on those long before it.
_SPREAD = 0.2
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": _VOCABULARY,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD,
    "max_position_embeddings": 8192,
    "rms_norm_eps": _EPSILON,
    "tie_word_embeddings": False,
    "dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

Array = npt.NDArray[np.float32]


@dataclass
class SmallModel:
    """The model in a folder.

    Attributes:
        folder: config.json, weights and tokenizer.
    """

    folder: Path

    @property
    def words(self) -> tuple[str, ...]:
        """Those for `up`; those for the engine are `ENGINE_ARGS`."""
        return ("--model", str(self.folder), "--served-model-name", NAME)

    def chats(self, question: str, max_tokens: int) -> str:
        """The likeliest answer of an assistant."""
        import jinja2

        template = jinja2.Template((self.folder / "chat_template.jinja").read_text())
        messages = [{"role": "user", "content": question}]
        return self.continues(template.render(messages=messages, add_generation_prompt=True), max_tokens)

    def continues(self, prompt: str, max_tokens: int) -> str:
        """The likeliest text after a prompt."""
        from threadpoolctl import threadpool_limits

        prompt_ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        ids = list(prompt_ids)
        with threadpool_limits(1):
            for _ in range(max_tokens):
                ids.append(self._next(np.array(ids)))
        return str(self._tokenizer.decode(ids[len(prompt_ids) :]))

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @cached_property
    def _weights(self) -> dict[str, Array]:
        from safetensors.numpy import load_file

        return load_file(self.folder / "model.safetensors")

    def _next(self, ids: npt.NDArray[np.int64]) -> int:
        x = self._weights["model.embed_tokens.weight"][ids]
        for layer in range(_LAYERS):
            x = x + self._attention(layer, _normed(x))
            x = x + self._mlp(layer, _normed(x))
        return int(np.argmax(_normed(x[-1]) @ self._weights["lm_head.weight"].T))

    def _linear(self, layer: int, name: str, x: Array) -> Array:
        return x @ self._weights[f"model.layers.{layer}.{name}.weight"].T

    def _attention(self, layer: int, x: Array) -> Array:
        """With rotary positions; no token sees a later one."""

        def heads(name: str, count: int) -> Array:
            return self._linear(layer, f"self_attn.{name}", x).reshape(len(x), count, _HEAD).swapaxes(0, 1)

        q, k = _rotated(heads("q_proj", _HEADS)), _rotated(heads("k_proj", _KV_HEADS))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(np.float32(_HEAD))
        scores = np.where(np.tri(len(x), dtype=bool), scores, np.float32(-np.inf))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ heads("v_proj", _KV_HEADS)
        return self._linear(layer, "self_attn.o_proj", mixed.swapaxes(0, 1).reshape(len(x), -1))

    def _mlp(self, layer: int, x: Array) -> Array:
        gate = self._linear(layer, "mlp.gate_proj", x)
        up = self._linear(layer, "mlp.up_proj", x)
        return self._linear(layer, "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)


def _normed(x: Array) -> Array:
    normed: Array = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(_EPSILON))
    return normed


def _rotated(x: Array) -> Array:
    """Rotary positions of HEADS x TOKENS x HEAD, in halves, as Llama has them."""
    rates = _THETA ** (-np.arange(0, _HEAD, 2, dtype=np.float32) / _HEAD)
    angles = np.outer(np.arange(x.shape[1], dtype=np.float32), rates)
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = np.split(x, 2, -1)
    rotated: Array = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return rotated


def write(folder: Path, like: Path) -> SmallModel:
    """Write the model.

    Args:
        folder: it is made.
        like: the folder of the built-in model, whose tokenizer it gets.
    """
    from safetensors.numpy import save_file

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(like / name, folder / name)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    model = SmallModel(folder)
    save_file(_random_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def _random_weights(model: SmallModel) -> dict[str, Array]:
    random = np.random.default_rng(7)

    def normal(rows: int, columns: int, spread: float = _SPREAD) -> Array:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(spread)

    ones = np.ones(_HIDDEN, np.float32)
    weights = {"model.embed_tokens.weight": normal(_VOCABULARY, _HIDDEN, 1.0), "model.norm.weight": ones}
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.input_layernorm.weight": ones,
            f"{name}.post_attention_layernorm.weight": ones,
            f"{name}.self_attn.q_proj.weight": normal(_HEADS * _HEAD, _HIDDEN),
            f"{name}.self_attn.k_proj.weight": normal(_KV_HEADS * _HEAD, _HIDDEN),
            f"{name}.self_attn.v_proj.weight": normal(_KV_HEADS * _HEAD, _HIDDEN),
            f"{name}.self_attn.o_proj.weight": normal(_HIDDEN, _HEADS * _HEAD),
            f"{name}.mlp.gate_proj.weight": normal(_INNER, _HIDDEN),
            f"{name}.mlp.up_proj.weight": normal(_INNER, _HIDDEN),
            f"{name}.mlp.down_proj.weight": normal(_HIDDEN, _INNER),
        }
    # Only plain words are likely: each is a piece of a stream, and none ends an answer.
    vocabulary = model._tokenizer.get_vocab(with_added_tokens=False)
    words = {index: token.removeprefix("Ġ") for token, index in vocabulary.items()}  # Ġ stands for a blank
    plain = np.zeros((_VOCABULARY, 1), np.float32)
    plain[[index for index, word in words.items() if word.isascii() and word.isalpha()]] = 1
    weights["lm_head.weight"] = normal(_VOCABULARY, _HIDDEN) * plain
    return weights
