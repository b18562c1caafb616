"""The random numbers of a request of its own, while its prompt is not complete.

vLLM samples tokens that it then discards, and sets the request's random numbers back. On a CPU that fails,
and the engine with it. With the patch nothing is sampled with them until the prompt is complete, so that
there is nothing to set back: the same seed gives the same answer however the prompt was divided.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap


def spare_seeds(runner: Any) -> None:
    """Take the generators of incomplete prompts out of the batch while tokens are sampled.

    Args:
        runner: vLLM's `GPUModelRunner`, or a class of its kind.
    """

    def around(plain: Any) -> Any:
        def sample_tokens(self: Any, *words: Any, **named: Any) -> Any:
            generators = self.input_batch.generators
            discards = self.discard_request_mask.np
            spared = {index: generators.pop(index) for index in tuple(generators) if discards[index]}
            try:
                return plain(self, *words, **named)
            finally:
                generators.update(spared)

        return sample_tokens

    wrap(runner, "sample_tokens", around, PATCH.name)


def on_start(worker: Any) -> None:
    """Have a worker process change its model runner's class when it has made one.

    Args:
        worker: vLLM's `WorkerWrapperBase`. The module of the runner is imported in the worker process only.
    """

    def around(plain: Any) -> Any:
        def init_device(self: Any) -> None:
            plain(self)
            spare_seeds(type(self.worker.model_runner))

        return init_device

    wrap(worker, "init_device", around, PATCH.name)


def _change(_value: str) -> None:
    from vllm.v1.worker import worker_base

    on_start(worker_base.WorkerWrapperBase)


PATCH = Patch(
    name="seeded-prefill",
    variable="DYNAMOCTL_SEEDED_PREFILL",
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="vllm==0.31.0:vllm/v1/worker/gpu_model_runner.py:GPUModelRunner._bookkeeping_sync",
    without="some requests end an engine on a CPU",
    change=_change,
)
