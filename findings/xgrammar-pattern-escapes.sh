#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# xgrammar turns a JSON schema with a backslash or a quote in its pattern into a grammar that allows no JSON.
#
# Library   xgrammar 0.2.9, the newest on PyPI (2026-11), which compiles vLLM's structured outputs; 0.2.7, which
#           vLLM 0.31 pins, does the same. Installs about 3 GB.
# Input     Two schemas of a string: the pattern ^C:\\[a-z]+$ (a path with a backslash) and ^"[a-z]+"$ (a quoted
#           word). For each, the JSON document of a string that matches, and the same without the escapes that JSON
#           asks for. Beside them, the pattern ^C:/[a-z]+$.
# Expected  The grammar accepts the document, in which the backslash or the quote is escaped, and refuses the other.
#           For patterns that exclude characters, such as ^[^,]+$, xgrammar does keep unescaped quotes out.
# Seen      The grammar refuses the document, and accepts what json.loads refuses. Whatever a model answers within
#           this grammar is broken JSON. No error and no warning at compile time.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The folder is small on some systems, and torch is large.
export TMPDIR="$work" PIP_NO_CACHE_DIR=1

python3 -m venv "$work/venv"
echo "Installing xgrammar 0.2.9 and torch ..."
"$work/venv/bin/pip" install --quiet --disable-pip-version-check xgrammar==0.2.9 2>"$work/pip.log" ||
    {
        cat "$work/pip.log" >&2
        exit 1
    }

cat >"$work/accept.py" <<'PY'
import json
import sys
from importlib.metadata import version

import xgrammar

# One token for each byte, and one for the end.
tokens = [bytes([value]) for value in range(256)] + [b"</s>"]
compiler = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(tokens, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[256])
)


def accepts(pattern, text):
    schema = json.dumps({"type": "string", "pattern": pattern})
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema), terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_terminated()


def is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


print(f"xgrammar {version('xgrammar')}")
seen = {}
for pattern, string in ((r"^C:\\[a-z]+$", r"C:\models"), ('^"[a-z]+"$', '"word"'), ("^C:/[a-z]+$", "C:/models")):
    escaped, raw = json.dumps(string), f'"{string}"'
    seen[pattern] = accepts(pattern, escaped), accepts(pattern, raw)
    for text, accepted in zip((escaped, raw), seen[pattern]):
        kind = "JSON" if is_json(text) else "not JSON"
        print(f"{pattern}: {text} ({kind}): expected {kind == 'JSON'}, seen {accepted}")
# Where nothing needs an escape, both texts are one.
is_as_described = list(seen.values()) == [(False, True), (False, True), (True, True)] and not accepts(
    "^[^,]+$", '"a"b"'
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
timeout 300 "$work/venv/bin/python" "$work/accept.py"
