"""Convert the built-in model once from the GGUF file in its package to safetensors."""

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

# Runs in its own process, because it needs torch and transformers, which dynamoctl never imports.
# Each line that it prints reports progress, as FRACTION STEP.
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
    """Convert the model into `folder`, atomically.

    Args:
        gguf: the GGUF file.
        on_progress: called with (step, fraction done).

    Raises:
        PreflightError: the model cannot be converted or written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise PreflightError(
            f"cannot write to {folder.parent}: {error.strerror}",
            "set DYNAMOCTL_CACHE to a writable folder",
        ) from None
    try:
        _run(gguf, scratch, on_progress)
        if not folder.exists():  # another `up` may have finished first
            os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(gguf: Path, out: Path, on_progress: Callable[[str, float], None]) -> None:
    def on_line(line: str) -> None:
        fraction, _, step = line.partition(" ")
        with contextlib.suppress(ValueError):  # output of a library
            on_progress(step.strip(), float(fraction))

    code, lines = process_control.run_script(
        [sys.executable, "-c", _SCRIPT, str(gguf.parent), gguf.name, str(out)],
        {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        out,
        on_line,
    )
    if code != 0:
        raise PreflightError(
            "the built-in model could not be converted",
            "\n".join([*lines, "reinstall dynamoctl with its extra cpu or gpu"]),
        )
