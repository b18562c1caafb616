#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# For a folder of the type qwen2, transformers 5 does not read back the tokenizer that it saved there.
#
# Library   transformers 5.24.0 and tokenizers 0.23.3, both the newest on PyPI (2026-11). Beside them,
#           transformers 4.57.6.
# Input     A tokenizer of one's own (BPE with "\u2581" for a space, as Llama 2 has it), saved with save_pretrained
#           beside a config.json with `"model_type": "qwen2"`: that architecture, trained with another vocabulary.
#           The same folder with `"model_type": "mistral"`.
# Expected  AutoTokenizer gives the token ids that the saved tokenizer gave, as tokenizers does, which Dynamo's
#           frontend uses. Text that is encoded and decoded is the same text.
# Seen      With 5.24.0 and qwen2, AutoTokenizer takes only the vocabulary and the merges from tokenizer.json, and
#           the rest from its class Qwen2Tokenizer, although tokenizer_config.json names TokenizersBackend. The
#           token ids are others, and the decoded text has no spaces. No warning. With mistral, and with 4.57.6, the
#           same files give the saved tokenizer.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$work/hub"

cat >"$work/encode.py" <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = "the quick brown fox, and then the dog sleeps"
folder = Path(sys.argv[1])
folder.mkdir()

original = Tokenizer(models.BPE(unk_token="<unk>"))
original.pre_tokenizer = pre_tokenizers.Metaspace()
original.decoder = decoders.Metaspace()
original.train_from_iterator(
    [TEXT] * 20,
    trainers.BpeTrainer(vocab_size=100, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
)
PreTrainedTokenizerFast(
    tokenizer_object=original, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
).save_pretrained(folder)


def read_as(model_type):
    """Whether the token ids are those of the saved tokenizer, and what is decoded from them."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    return ids == original.encode(TEXT).ids, tokenizer.decode(ids)


named = json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
by_tokenizers = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids == original.encode(TEXT).ids
print(json.dumps({
    "text": TEXT, "named": named, "tokenizers": by_tokenizers,
    "qwen2": read_as("qwen2"), "mistral": read_as("mistral"),
}))
PY

# encoded_with TRANSFORMERS [TOKENIZERS]: what both read, as JSON
encoded_with() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet --disable-pip-version-check "transformers==$1" ${2:+"tokenizers==$2"} >&2
    timeout 120 "$work/$1/bin/python" "$work/encode.py" "$work/model-$1" 2>"$work/log-$1" ||
        {
            cat "$work/log-$1" >&2
            return 1
        }
}

now=$(encoded_with 5.24.0 0.23.3)
before=$(encoded_with 4.57.6)
python3 - "$now" "$before" <<'PY'
import json
import sys

now, before = map(json.loads, sys.argv[1:])
text = now["text"]
for version, seen in (("5.24.0", now), ("4.57.6", before)):
    for model_type in ("qwen2", "mistral"):
        same, decoded = seen[model_type]
        print(f"transformers {version}, {model_type}, saved as {seen['named']}: expected the same ids, {text!r}")
        print(f"    seen {'the same' if same else 'other'} ids, {decoded!r}")
is_as_described = (
    now["tokenizers"]
    and now["named"] == "TokenizersBackend"
    and now["qwen2"][0] is False
    and " " not in now["qwen2"][1]
    and now["mistral"] == before["mistral"] == before["qwen2"] == [True, text]
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
