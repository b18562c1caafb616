"""A vLLM plugin (entry point group `vllm.general_plugins`) that applies `patches.ALL`.

vLLM loads plugins in every one of its processes: the worker's main process, EngineCore and its Worker
processes. A patch is applied if its variable is set: by the planner (`planner.patching` says when), or by the
supervisor. Without variables the plugin does nothing.

vLLM does not catch what a plugin raises (vllm==0.26.0:vllm/plugins/__init__.py:load_general_plugins), in none
of these processes: the process ends with it.
"""

from __future__ import annotations

import os

from dynamoctl import patches


def register() -> None:
    """Apply what is switched on. vLLM calls this, at times more than once in a process.

    Raises:
        PatchError: a patch cannot be applied.
    """
    for patch in patches.switched_on(os.environ):
        patch.apply(os.environ[patch.variable])
