"""Rules for vLLM on GPUs."""

from __future__ import annotations

from dynamoctl.planner import gpu_memory
from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.rules.rule import LOOPBACK_ONLY, WORKERS, Condition, InPod, Rule

_ON_GPU = Condition("on GPUs", lambda unit: unit.plan.device == "cuda")
_IN_LIMITS = "nvidia.com/gpu in the limits is their number"
_MULTICAST_OFF = Condition(
    "on GPUs, with nvlink_multicast = false",
    lambda unit: _ON_GPU.holds(unit) and not unit.spec.nvlink_multicast,
)
_NO_MULTICAST = (
    "You switched NVLink multicast off: it takes memory of the whole NVLink fabric, which others may share."
    " Collectives go over plain NVLink."
)
_HELD = "An engine that is killed can leave that memory held."


def _shares(unit: UnitContext) -> bool:
    return _ON_GPU.holds(unit) and unit.worker.memory_share is not None


def _shares_and_overlaps(unit: UnitContext) -> bool:
    return (
        _shares(unit) and unit.spec.start == "overlapped" and not gpu_memory.has_own_size(unit.user_arguments)
    )


def _cannot_build(unit: UnitContext) -> bool:
    return _ON_GPU.holds(unit) and not unit.plan.facts.builds_kernels


GPU = (
    Rule(
        name="own-gpus",
        sets="CUDA_VISIBLE_DEVICES",
        value=lambda unit: ",".join(str(gpu) for gpu in unit.worker.gpus),
        why="A worker sees the GPUs that the plan gives it, one for each rank.",
        without="Every worker takes the first GPUs of the host.",
        source="torch==2.13.0:torch/lib/libc10_cuda.so:CUDA_VISIBLE_DEVICES",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_ON_GPU,
        in_pod=InPod("dropped", _IN_LIMITS, reserved=True),
        instead="name GPUs with gpus = [0, 1] or --gpus 0,1",
        replaces_quietly=True,
    ),
    Rule(
        name="gpus-by-bus",
        sets="CUDA_DEVICE_ORDER",
        value="PCI_BUS_ID",
        why="CUDA numbers GPUs by speed; NVML, nvidia-smi and users number them by bus.",
        without="On a host with different GPUs, a worker gets another GPU than the one that --gpus names.",
        source="CUDA C++ Programming Guide, CUDA environment variables: CUDA_DEVICE_ORDER",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_ON_GPU,
        in_pod=InPod("dropped", _IN_LIMITS),
        instead="name GPUs as nvidia-smi numbers them, or by UUID, as in --gpus GPU-8932f937",
    ),
    Rule(
        name="nccl-on-loopback",
        sets="NCCL_SOCKET_IFNAME",
        value="lo",
        why="The ranks of an engine are on one host.",
        without="The ranks listen on an interface of the network.",
        source="torch==2.13.0:torch/lib/libtorch_cpu.so:NCCL_SOCKET_IFNAME",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_ON_GPU,
        in_pod=LOOPBACK_ONLY,
        override_expected=True,
    ),
    Rule(
        name="no-multicast-in-nccl",
        sets="NCCL_NVLS_ENABLE",
        value="0",
        why=_NO_MULTICAST,
        without=_HELD,
        source="NCCL user guide, environment variables: NCCL_NVLS_ENABLE",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_MULTICAST_OFF,
        override_expected=True,
    ),
    Rule(
        name="no-multicast-in-torch",
        sets="TORCH_SYMM_MEM_DISABLE_MULTICAST",
        value="1",
        why=_NO_MULTICAST,
        without=_HELD,
        source="torch==2.13.0:torch/lib/libtorch_cuda.so:TORCH_SYMM_MEM_DISABLE_MULTICAST",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_MULTICAST_OFF,
        override_expected=True,
    ),
    Rule(
        name="no-multicast-in-nvshmem",
        sets="NVSHMEM_DISABLE_NVLS",
        value="1",
        why=_NO_MULTICAST,
        without=_HELD,
        source="NVSHMEM documentation, environment variables: NVSHMEM_DISABLE_NVLS",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_MULTICAST_OFF,
        override_expected=True,
    ),
    Rule(
        name="sampler-without-a-compiler",
        sets="VLLM_USE_FLASHINFER_SAMPLER",
        value="0",
        why="FlashInfer builds the kernels with which vLLM samples when it needs them, and this host has no"
        " nvcc for it. vLLM has kernels of its own.",
        without="The engine exits while it warms up, or later when it serves.",
        source="vllm==0.31.0:vllm/v1/sample/ops/topk_topp_sampler.py:flashinfer_sampler_supported",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition("on GPUs of a host without nvcc", _cannot_build),
        in_pod=InPod("dropped", "the image may have a compiler"),
        override_expected=True,
    ),
    Rule(
        name="share-of-gpu-memory",
        sets="--gpu-memory-utilization",
        value=lambda unit: f"{unit.worker.memory_share:g}",
        why="Workers on one GPU divide its memory, and leave room for what each needs outside of its share.",
        without="Each takes 0.92 of the GPU, and the second exits because too little memory is free.",
        source="vllm==0.31.0:vllm/v1/worker/utils.py:request_memory",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition("on a shared GPU", _shares),
        override_expected=True,
    ),
    Rule(
        name="size-instead-of-measurement",
        sets="--kv-cache-memory-bytes",
        value=lambda unit: str(gpu_memory.kv_cache_bytes(unit)),
        why="vLLM finds the size of the KV cache by a measurement of free memory. With a size given, it does"
        " not measure.",
        without="Two workers that measure at once on one GPU take each other's memory for their own.",
        source="vllm==0.31.0:vllm/v1/worker/gpu_worker.py:determine_available_memory",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition("on a shared GPU with --start overlapped", _shares_and_overlaps),
        override_expected=True,
    ),
)
