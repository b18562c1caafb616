"""The built-in model: converted once from the GGUF in its package to safetensors."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from dynamoctl.errors import PreflightError
from dynamoctl.processes import process_control

# Runs in a process of its own: it needs torch and transformers, which this process never imports.
# Each line that it prints is a progress mark: FRACTION WHAT.
_SCRIPT = """
import os, sys
folder, name, out = sys.argv[1:]
def say(fraction, what): print(fraction, what, flush=True)
say(0.02, "importing transformers")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
options = {}
try:  # transformers 5.18 and later keep GGUF weights packed unless told otherwise
    from transformers import GgufConfig
    options["quantization_config"] = GgufConfig(dequantize=True)
except ImportError:
    pass
say(0.35, "reading the tokenizer")
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
say(0.55, "unpacking the weights")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16, **options)
say(0.9, "writing safetensors")
model.save_pretrained(out)
say(1.0, "done")
"""


def convert_builtin(gguf: Path, folder: Path, on_progress: Callable[[str, float], None]) -> None:
    """Convert the model into `folder`, whole or not at all.

    Raises:
        PreflightError: it cannot be converted, or not be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise PreflightError(
            f"cannot write to {folder.parent}: {error.strerror}",
            "set DYNAMOCTL_CACHE to a folder that can be written",
        ) from None
    try:
        _run(gguf, scratch, on_progress)
        if not folder.exists():  # another `up` may have been quicker
            os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(gguf: Path, out: Path, on_progress: Callable[[str, float], None]) -> None:
    def mark(line: str) -> None:
        fraction, _, what = line.partition(" ")
        with contextlib.suppress(ValueError):  # a library's own word on stdout
            on_progress(what.strip(), float(fraction))

    code, lines = process_control.run_script(
        [sys.executable, "-c", _SCRIPT, str(gguf.parent), gguf.name, str(out)],
        {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        out,
        mark,
    )
    if code != 0:
        raise PreflightError(
            "the built-in model could not be converted",
            "\n".join([*lines, "install dynamoctl with its extra cpu or gpu again"]),
        )
