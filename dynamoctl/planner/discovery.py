"""How a deployment's processes find each other, and at which addresses of this host they listen.

On one host: a folder, and the loopback. Over several hosts: an etcd that runs already, and the address that
the user wants to be reached at. Each rule stands with its reason; what was seen is of Dynamo 1.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts
from dynamoctl.planner.connectors import Device


@dataclass(frozen=True)
class Address:
    """Where the others of a deployment reach what runs here.

    Attributes:
        host: an IPv4 address.
        interface: the interface that has it, where Dynamo can be told to listen there by that name.
        devices: what NIXL's transport may use, as UCX names it: the interface, and RDMA devices behind it.
    """

    host: str = "127.0.0.1"
    interface: str | None = "lo"
    devices: tuple[str, ...] = ("lo",)


LOOPBACK = Address()


def address(spec: DeploymentSpec, facts: HostFacts) -> Address:
    """The address that `--advertise` names, or the loopback.

    Raises:
        PreflightError: this host does not have it, or its frontend could not take answers there.
    """
    wanted = spec.advertise
    if wanted is None:
        return LOOPBACK
    for one in facts.interfaces:
        if wanted == one.name or wanted in one.addresses:
            break
    else:
        there = ", ".join(f"{one.addresses[0]} ({one.name})" for one in facts.interfaces)
        raise PreflightError(
            f"advertise: {wanted} is neither an IPv4 address of this host nor an interface with one",
            f"name one of this host's: {there or 'it has none'}",
        )
    host = one.addresses[0] if wanted == one.name else wanted
    # Dynamo takes the last address of an interface, and fails with IPv6's, which nearly all have.
    by_name = one.addresses[-1] == host and not one.ipv6
    if not by_name and facts.way_out != host and "frontend" in spec.here:
        raise PreflightError(
            f"advertise: the frontend would take workers' answers at {facts.way_out or 'the loopback'}, not"
            f" at {host}: Dynamo can be given an interface alone, and {one.name} has several addresses",
            f"advertise {facts.way_out}, or give {host} a name of its own:"
            f" ip address add {host}/32 dev {one.name} label {one.name}:dyn",
        )
    card = one.name.partition(":")[0]
    return Address(host, one.name if by_name else None, (*one.rdma, card))


def environment(spec: DeploymentSpec, at: Address, store: str) -> dict[str, str]:
    """What every unit gets.

    Args:
        store: the folder of file discovery.
    """
    if spec.discovery == "etcd":
        # No folder can be watched from another host: Dynamo watches for changes that this kernel makes.
        found = {"DYN_DISCOVERY_BACKEND": "etcd", "ETCD_ENDPOINTS": ",".join(spec.etcd_endpoints)}
    else:
        # A folder of the deployment's own: no etcd, and no second deployment in the same store.
        found = {"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": store}
    if at.interface:
        # Where the frontend listens for what workers answer: an interface, since an address is "not found".
        # Otherwise Dynamo takes the address of the way out.
        found["DYN_TCP_RESPONSE_STREAM_HOST"] = at.interface
    if at != LOOPBACK:
        # Read from Dynamo 1.5 on. Before, event channels carry the address that the kernel would use for
        # the way out, whatever is said here.
        found["DYN_EVENT_PLANE_HOST"] = at.host
    return {
        **found,
        # No NATS.
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        # Where workers listen for requests; it is what they register.
        "DYN_TCP_RPC_HOST": at.host,
        # Status and metrics are for this host alone: a GET there can put an engine to sleep.
        "DYN_SYSTEM_HOST": LOOPBACK.host,
    }


def transfer_environment(spec: DeploymentSpec, at: Address, device: Device) -> dict[str, str]:
    """Where NIXL's handshake and its transport listen.

    The side channel's host is set because Dynamo finds it out for a plain NixlConnector only, not for one
    inside MultiConnector, and then takes the address of the way out.

    UCX listens on every interface, and lets a peer read and write what it has been told of. On one host the
    blocks go by CUDA IPC or shared memory, and the network device is for the handshake.
    """
    found = {"VLLM_NIXL_SIDE_CHANNEL_HOST": at.host, "UCX_NET_DEVICES": ",".join(at.devices)}
    if between_hosts(spec) and device == "cpu":
        # Two containers on one machine share /dev/shm at times, and not the rest that shared memory takes.
        found["UCX_TLS"] = "tcp"
    return found


def between_hosts(spec: DeploymentSpec) -> bool:
    """Whether KV blocks go from a worker on one host to a worker on another."""
    return bool({"decode", "prefill"} & set(spec.elsewhere))
