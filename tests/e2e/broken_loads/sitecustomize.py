"""In a worker with this folder on its PYTHONPATH, LMCache does not bring what it promises.

As long as the file BREAK_LOADS is there. Beside a cache server, the worker side of LMCache's connector takes
the server for one that has died; the side that looks prompts up goes on. In process, nothing is found of what
a lookup has found.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOOKS = 3000
BROKEN = Path(os.environ.get("BREAK_LOADS", ""))


def beside_a_server(worker: Any) -> None:
    is_healthy = worker.is_healthy.fget
    worker.is_healthy = property(lambda self: is_healthy(self) and not BROKEN.exists())


def in_process(engine: Any) -> None:
    plain = engine.retrieve

    def retrieve(self: Any, tokens: Any, mask: Any = None, **named: Any) -> Any:
        import torch

        return (
            torch.zeros(len(tokens), dtype=torch.bool)
            if BROKEN.exists()
            else plain(self, tokens, mask, **named)
        )

    engine.retrieve = retrieve


TARGETS = {
    ("lmcache.integration.vllm.vllm_multi_process_adapter", "LMCacheMPWorkerAdapter"): beside_a_server,
    ("lmcache.v1.cache_engine", "LMCacheEngine"): in_process,
}


def wait_for_the_import() -> None:
    """Only an engine imports LMCache."""
    left = dict(TARGETS)
    for _ in range(LOOKS):
        for module, name in tuple(left):
            if (target := getattr(sys.modules.get(module), name, None)) is not None:
                left.pop((module, name))(target)
        time.sleep(0.05)


def start() -> None:
    threading.Thread(target=wait_for_the_import, daemon=True).start()


if "BREAK_LOADS" in os.environ:
    start()
    os.register_at_fork(after_in_child=start)  # a worker that its engine forks has no threads
