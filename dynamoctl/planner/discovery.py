"""The address of this host at which a deployment's processes listen.

On one host it is the loopback. Over several hosts it is the address that the user advertises. What each
process is told: `planner.rules.discovery` and `planner.rules.nixl`. What is said of Dynamo here was seen with
ai-dynamo==1.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts


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

    Dynamo can be given the name of an interface, and then takes the interface's last address; an IPv6 address
    makes it fail. If the advertised address is another one, Dynamo uses that of the default route (seen with
    ai-dynamo==1.4.2; DYN_TCP_RESPONSE_STREAM_HOST in ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so).

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


def between_hosts(spec: DeploymentSpec) -> bool:
    """Whether KV blocks go from a worker on one host to a worker on another."""
    return bool({"decode", "prefill"} & set(spec.elsewhere))
