"""Rules for LMCache: its settings in process, its server, and how workers talk to that server."""

from __future__ import annotations

from dynamoctl.planner import lmcache, tiers
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S, SERVER_TIMEOUT_S
from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.plan import Role
from dynamoctl.planner.rules.rule import KEPT, Condition, InPod, Rule

_CACHING: tuple[Role, ...] = ("agg", "prefill")
_SERVER: tuple[Role, ...] = ("cache",)
_CONFIG = "lmcache==0.5.6:lmcache/v1/config.py"
_SERVER_CONFIG = "lmcache==0.5.6:lmcache/v1/multiprocess/config.py"
_SERVER_MEMORY = "lmcache==0.5.6:lmcache/v1/distributed/config.py"
_BACKENDS = "lmcache==0.5.6:lmcache/v1/storage_backend/__init__.py"
_CONNECTOR = "lmcache==0.5.6:lmcache/integration/vllm/vllm_multi_process_adapter.py"
_OPERATOR_RUNS = InPod("changed", "LMCache's operator runs the server: the LMCacheEngine has the setting")
_NO_DISK_FOR_GPUS = InPod("dropped", "a manifest gives no pod a disk that its GPUs reach directly")


def _in_process(unit: UnitContext) -> bool:
    return unit.plan.cache == "inproc"


def _ports(unit: UnitContext) -> tuple[int, int]:
    assert unit.plan.cache_ports is not None
    return unit.plan.cache_ports


IN_PROCESS = Condition("with LMCache in process", _in_process)
WITH_SERVER = Condition("with a cache server", lambda unit: unit.plan.cache == "mp")
_WITH_DISK = Condition(
    "in process, with a disk tier", lambda unit: _in_process(unit) and bool(unit.spec.lmcache.disk)
)
_WITH_REMOTE = Condition(
    "in process, with a remote tier", lambda unit: _in_process(unit) and bool(unit.spec.lmcache.remote)
)
_WITH_GDS = Condition(
    "in process, with a GDS tier", lambda unit: _in_process(unit) and bool(unit.spec.lmcache.gds)
)
_WITHOUT_REMOTE = Condition(
    "in process, without a remote tier", lambda unit: _in_process(unit) and not unit.spec.lmcache.remote
)
_WITHOUT_GDS = Condition(
    "in process, without a GDS tier", lambda unit: _in_process(unit) and not unit.spec.lmcache.gds
)

ENGINE = (
    Rule(
        name="lmcache-chunk-size",
        sets="LMCACHE_CHUNK_SIZE",
        value=lambda unit: str(unit.spec.lmcache.chunk_size),
        why="LMCache stores and finds a prompt in chunks of this many tokens.",
        without="LMCache uses its own default, 256.",
        source=f"{_CONFIG}:chunk_size",
        tested=("lmcache",),
        roles=_CACHING,
        when=IN_PROCESS,
        override_expected=True,
    ),
    Rule(
        name="lmcache-in-cpu-memory",
        sets="LMCACHE_LOCAL_CPU",
        value="True",
        why="CPU memory is LMCache's first tier, as in Dynamo's integration of LMCache.",
        without="The setting depends on LMCache's default.",
        source=f"{_CONFIG}:local_cpu",
        tested=("lmcache",),
        roles=_CACHING,
        when=IN_PROCESS,
        override_expected=True,
    ),
    Rule(
        name="lmcache-memory",
        sets="LMCACHE_MAX_LOCAL_CPU_SIZE",
        value=lambda unit: f"{unit.plan.gib:g}",
        why="GiB for each rank, which LMCache allocates and pins at the start: --lmcache-cpu-gb, or a default"
        " that fits the host.",
        without="LMCache takes its own default, 5 GiB for each rank.",
        source=f"{_CONFIG}:max_local_cpu_size",
        tested=("lmcache",),
        roles=_CACHING,
        when=IN_PROCESS,
        override_expected=True,
    ),
    Rule(
        name="lmcache-disk",
        sets="LMCACHE_LOCAL_DISK",
        value=lambda unit: tiers.disk_urls(unit.spec.lmcache.disk or "", unit.worker.number, unit.spec.tp),
        why="LMCache takes the directories of its disk tier as file:// URLs. Of several, each rank uses one;"
        " each worker gets them in another order, so that all are used.",
        without="There is no disk tier.",
        source=f"{_CONFIG}:local_disk",
        tested=("lmcache",),
        roles=_CACHING,
        when=_WITH_DISK,
        override_expected=True,
    ),
    Rule(
        name="lmcache-disk-size",
        sets="LMCACHE_MAX_LOCAL_DISK_SIZE",
        value=lambda unit: f"{unit.spec.lmcache.disk_gb:g}",
        why="The disk tier needs a size.",
        without="LMCache makes no disk tier, and does not say so.",
        source=f"{_CONFIG}:max_local_disk_size",
        tested=("lmcache",),
        roles=_CACHING,
        when=_WITH_DISK,
        override_expected=True,
    ),
    Rule(
        name="lmcache-remote",
        sets="LMCACHE_REMOTE_URL",
        value=lambda unit: unit.spec.lmcache.remote or "",
        why="The remote tier is a store that several hosts share.",
        without="There is no remote tier.",
        source=f"{_CONFIG}:remote_url",
        tested=("lmcache",),
        roles=_CACHING,
        when=_WITH_REMOTE,
        override_expected=True,
    ),
    Rule(
        name="lmcache-gds",
        sets="LMCACHE_GDS_PATH",
        value=lambda unit: ",".join(
            tiers.own_order(unit.spec.lmcache.gds or "", unit.worker.number, unit.spec.tp)
        ),
        why="The GDS tier is a directory that GPUs read and write directly. Of several, each rank uses one.",
        without="There is no GDS tier.",
        source=f"{_CONFIG}:gds_path",
        tested=("lmcache",),
        roles=_CACHING,
        when=_WITH_GDS,
        in_pod=_NO_DISK_FOR_GPUS,
        override_expected=True,
    ),
    Rule(
        name="lmcache-gds-buffer",
        sets="LMCACHE_GDS_BUFFER_SIZE",
        value=tiers.GDS_BUFFER_MIB,
        why="MiB of GPU memory that GPUDirect Storage reads and writes through. LMCache's own examples have"
        " 8 GiB, which a small GPU cannot spare.",
        without="LMCache has no default, and the engine exits.",
        source="lmcache==0.5.6:lmcache/v1/cache_engine.py:gds_buffer_size",
        tested=("lmcache",),
        roles=_CACHING,
        when=_WITH_GDS,
        in_pod=_NO_DISK_FOR_GPUS,
        override_expected=True,
    ),
)

# An empty URL or path in the caller's environment turns a tier off, but LMCache would take it for one.
UNSET = tuple(
    Rule(
        name=f"lmcache-no-{tier.lower()}",
        sets=variable,
        value=None,
        why=f"There is no {tier} tier. The caller's variable may be empty, which means the same.",
        without="LMCache takes an empty value for a place, and the engine exits or serves without a cache.",
        source=f"{_BACKENDS}:{variable.removeprefix('LMCACHE_').lower()}",
        tested=("lmcache",),
        roles=_CACHING,
        when=without,
        in_pod=in_pod,
    )
    for tier, variable, without, in_pod in (
        ("remote", "LMCACHE_REMOTE_URL", _WITHOUT_REMOTE, KEPT),
        ("GDS", "LMCACHE_GDS_PATH", _WITHOUT_GDS, _NO_DISK_FOR_GPUS),
    )
)

SERVER = (
    Rule(
        name="server-on-loopback",
        sets="--host",
        value="127.0.0.1",
        why="The cache server answers anybody, so it listens on the loopback alone.",
        without="The address depends on what the host makes of `localhost`.",
        source=f"{_SERVER_CONFIG}:--host",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-port",
        sets="--port",
        value=lambda unit: str(_ports(unit)[0]),
        why="Workers ask the server at this ZMQ port.",
        without="Two deployments on one host want port 5555.",
        source=f"{_SERVER_CONFIG}:--port",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-http-on-loopback",
        sets="--http-host",
        value="127.0.0.1",
        why="Health, metrics and the means to clear the cache are for this host alone.",
        without="The server listens on every interface: its default is 0.0.0.0.",
        source=f"{_SERVER_CONFIG}:--http-host",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-http-port",
        sets="--http-port",
        value=lambda unit: str(_ports(unit)[1]),
        why="The gate of the server and `status` ask at this port.",
        without="Two deployments on one host want port 8080.",
        source=f"{_SERVER_CONFIG}:--http-port",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-chunk-size",
        sets="--chunk-size",
        value=lambda unit: str(unit.spec.lmcache.chunk_size),
        why="A chunk is a whole number of vLLM's KV blocks.",
        without="The connector's assertion fails, and the worker exits.",
        source=f"{_CONNECTOR}:lmcache_tokens_per_chunk",
        tested=("vllm", "lmcache"),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-memory",
        sets="--l1-size-gb",
        value=lambda unit: f"{unit.plan.gib:g}",
        why="GiB of CPU memory for the whole host: --lmcache-cpu-gb, or a default that fits the host.",
        without="The server exits: the flag is required.",
        source=f"{_SERVER_MEMORY}:--l1-size-gb",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-eviction",
        sets="--eviction-policy",
        value=lambda unit: lmcache.eviction_policy(
            unit.spec.lmcache, "mp", unit.plan.facts.versions.get("lmcache", "")
        ),
        why="The server must have a policy: LMCACHE_CACHE_POLICY, which the server itself does not read, or"
        " LRU.",
        without="The server exits: the flag is required.",
        source=f"{_SERVER_MEMORY}:--eviction-policy",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
    Rule(
        name="server-transfer-mode",
        sets="--supported-transfer-mode",
        value="auto",
        why="Workers on a CPU copy their KV cache themselves, workers on GPUs let the server do it. The"
        " server takes both.",
        without="LMCache 0.5.6 takes GPUs alone: an engine on a CPU gets no answer, and exits.",
        source=f"{_SERVER_CONFIG}:--supported-transfer-mode",
        tested=("lmcache",),
        roles=_SERVER,
        in_pod=_OPERATOR_RUNS,
    ),
)

# What the workers of such a server do.
CLIENT = (
    Rule(
        name="server-timeout",
        sets="kv_transfer_config.lmcache.mp.mq_timeout",
        value=f"{SERVER_TIMEOUT_S:g}",
        why="How long a worker waits for the cache server, in seconds.",
        without="By LMCache's default, 300 s, a worker whose server was killed answers nobody for five"
        " minutes.",
        source=f"{_CONNECTOR}:DEFAULT_MQ_TIMEOUT",
        tested=("vllm", "lmcache"),
        roles=_CACHING,
        when=WITH_SERVER,
        in_pod=InPod("changed", "LMCache's operator writes the configuration of its connector"),
    ),
    Rule(
        name="server-heartbeat",
        sets="kv_transfer_config.lmcache.mp.heartbeat_interval",
        value=f"{SERVER_HEARTBEAT_S:g}",
        why="How often a worker asks whether the cache server is back, in seconds.",
        without="By LMCache's default, a worker notices later that its server is gone, or back.",
        source=f"{_CONNECTOR}:DEFAULT_HEARTBEAT_INTERVAL",
        tested=("vllm", "lmcache"),
        roles=_CACHING,
        when=WITH_SERVER,
        in_pod=InPod("changed", "LMCache's operator writes the configuration of its connector"),
    ),
)
