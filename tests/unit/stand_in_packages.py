"""Packages in the place of Dynamo's and vLLM's, which import at once."""

from __future__ import annotations

from pathlib import Path

from dynamoctl.processes import worker


def make(root: Path, worker_code: str, imported_code: str = "") -> str:
    """Make them.

    Args:
        worker_code: what `python -m dynamo.vllm` runs.
        imported_code: what runs when `dynamo.vllm.main` is imported.

    Returns:
        The PYTHONPATH of a process that uses them, and dynamoctl.
    """
    packages = root / "packages"
    for name in ("dynamo", "dynamo/vllm", "vllm"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").touch()
    (packages / "dynamo/vllm/main.py").write_text(imported_code)
    (packages / "dynamo/vllm/__main__.py").write_text(worker_code)
    return f"{packages}:{Path(worker.__file__).parents[2]}"
