"""Rules for how processes find each other, and at which addresses they listen."""

from __future__ import annotations

from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.discovery import LOOPBACK
from dynamoctl.planner.plan import WORKER_ROLES
from dynamoctl.planner.rules.rule import LOOPBACK_ONLY, OPERATORS, Condition, InPod, Rule

_BACKEND = "ai-dynamo==1.6.1:dynamo/common/configuration/groups/runtime_args.py"
_RUNTIME = "ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so"
_OTHER_HOSTS = InPod("dropped", "the operator spreads pods over hosts")


def _is_mocker(unit: UnitContext) -> bool:
    return unit.spec.engine == "mocker" and unit.role in WORKER_ROLES


WITH_FILE = Condition("with --discovery file", lambda unit: unit.spec.discovery == "file")
WITH_ETCD = Condition("with --discovery etcd", lambda unit: unit.spec.discovery == "etcd")
_IS_MOCKER = Condition("a mocker", _is_mocker)
_IS_NO_MOCKER = Condition("except mockers", lambda unit: not _is_mocker(unit))

DISCOVERY = (
    Rule(
        name="file-discovery",
        sets="DYN_DISCOVERY_BACKEND",
        value="file",
        why="On one host, processes find each other in a directory.",
        without="Dynamo looks for an etcd, and start-up waits about 120 s if there is none.",
        source=f"{_BACKEND}:DYN_DISCOVERY_BACKEND",
        tested=("ai-dynamo",),
        when=WITH_FILE,
        in_pod=OPERATORS,
        instead="set discovery, or give --discovery",
    ),
    Rule(
        name="own-store",
        sets="DYN_FILE_KV",
        value=lambda unit: unit.plan.store,
        why="The directory belongs to this deployment alone, and is fresh at every start.",
        without="Deployments share $TMPDIR/dynamo_store_kv, and a stale entry lists a model that is not there"
        " for 3 to 11 s.",
        source=f"{_BACKEND}:DYN_FILE_KV",
        tested=("ai-dynamo",),
        when=WITH_FILE,
        in_pod=OPERATORS,
        instead="the directory is below DYNAMOCTL_HOME, which the environment of `up` can set",
    ),
    Rule(
        name="etcd-discovery",
        sets="DYN_DISCOVERY_BACKEND",
        value="etcd",
        why="Over several hosts, processes find each other in an etcd. Dynamo watches a directory through the"
        " local kernel, which does not see changes that another host makes.",
        without="Hosts do not see each other's workers.",
        source=f"{_BACKEND}:DYN_DISCOVERY_BACKEND",
        tested=("ai-dynamo",),
        when=WITH_ETCD,
        in_pod=OPERATORS,
        instead="set discovery, or give --discovery",
    ),
    Rule(
        name="etcd-endpoints",
        sets="ETCD_ENDPOINTS",
        value=lambda unit: ",".join(unit.spec.etcd_endpoints),
        why="Every process of the deployment uses the same etcd.",
        without="Dynamo looks for etcd at its own default address.",
        source=f"{_RUNTIME}:ETCD_ENDPOINTS",
        tested=("ai-dynamo",),
        when=WITH_ETCD,
        in_pod=OPERATORS,
        instead="set etcd_endpoints, or give --etcd-endpoints",
        replaces_quietly=True,
    ),
    Rule(
        name="etcd-lease",
        sets="ETCD_LEASE_TTL",
        value="30",
        why="A process survives an etcd that is away for less than this many seconds. The supervisor ends the"
        " lease of a dead process itself, so only a host that died stays listed for so long.",
        without="A lease lives for 10 s, and each process whose lease has expired ends and starts anew: both"
        " did after 12 s without etcd, with the set 1.4 the frontend did after 2 s.",
        source=f"{_RUNTIME}:ETCD_LEASE_TTL",
        tested=("ai-dynamo",),
        when=WITH_ETCD,
        in_pod=OPERATORS,
        override_expected=True,
    ),
    Rule(
        name="response-stream-interface",
        sets="DYN_TCP_RESPONSE_STREAM_HOST",
        value=lambda unit: unit.plan.at.interface or "",
        why="The frontend listens there for the workers' answers. Dynamo takes the name of an interface; it"
        " rejects an address as not found.",
        without="The frontend takes answers at the address of the default route, on every network.",
        source=f"{_RUNTIME}:DYN_TCP_RESPONSE_STREAM_HOST",
        tested=("ai-dynamo",),
        when=Condition(
            "if an interface alone has the advertised address",
            lambda unit: unit.plan.at.interface is not None,
        ),
        in_pod=LOOPBACK_ONLY,
    ),
    Rule(
        name="event-address",
        sets="DYN_EVENT_PLANE_HOST",
        value=lambda unit: unit.plan.at.host,
        why="Event channels carry this address. Dynamo reads the variable from 1.5 on.",
        without="Event channels carry the address of the default route; Dynamo 1.4 always does this.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:DYN_EVENT_PLANE_HOST",
        tested=("ai-dynamo",),
        in_pod=_OTHER_HOSTS,
    ),
    Rule(
        name="requests-over-tcp",
        sets="DYN_REQUEST_PLANE",
        value="tcp",
        why="Requests go from the frontend to the workers over TCP.",
        without="Dynamo could need a NATS server, which dynamoctl does not start.",
        source=f"{_BACKEND}:DYN_REQUEST_PLANE",
        tested=("ai-dynamo",),
        in_pod=OPERATORS,
        override_expected=True,  # a user with a NATS server may use it; `doctor` checks that it answers
    ),
    Rule(
        name="events-over-zmq",
        sets="DYN_EVENT_PLANE",
        value="zmq",
        why="Events go over ZMQ.",
        without="Dynamo could need a NATS server, which dynamoctl does not start.",
        source=f"{_BACKEND}:DYN_EVENT_PLANE",
        tested=("ai-dynamo",),
        in_pod=OPERATORS,
        override_expected=True,
    ),
    Rule(
        name="request-address",
        sets="DYN_TCP_RPC_HOST",
        value=lambda unit: unit.plan.at.host,
        why="Workers listen for requests at this address and register it.",
        without="Workers listen, and register, at an address of the network.",
        source=f"{_RUNTIME}:DYN_TCP_RPC_HOST",
        tested=("ai-dynamo",),
        in_pod=LOOPBACK_ONLY,
    ),
    Rule(
        name="status-on-loopback",
        sets="DYN_SYSTEM_HOST",
        value=LOOPBACK.host,
        why="Status and metrics are for this host alone.",
        without="A GET from another host can put an engine to sleep.",
        source="ai-dynamo==1.6.1:dynamo/common/snapshot/constants.py:DYN_SYSTEM_HOST",
        tested=("ai-dynamo",),
        when=_IS_NO_MOCKER,
        in_pod=InPod("dropped", LOOPBACK_ONLY.why, reserved=True),
    ),
    Rule(
        name="mocker-status-address",
        sets="DYN_SYSTEM_HOST",
        value=lambda unit: unit.plan.at.host,
        why="The frontend gets the tokenizer's files from the status server of the mocker, and the frontend"
        " may be on another host.",
        without="The frontend of another host does not get the tokenizer.",
        source="ai-dynamo==1.6.1:dynamo/common/snapshot/constants.py:DYN_SYSTEM_HOST",
        tested=("ai-dynamo",),
        roles=WORKER_ROLES,
        when=_IS_MOCKER,
        in_pod=InPod("dropped", LOOPBACK_ONLY.why, reserved=True),
    ),
)
