"""The host's network interfaces."""

from __future__ import annotations

import socket
from pathlib import Path

from dynamoctl.facts import Interface

_SYS = Path("/sys/class/net")
# An address of a network for documentation (RFC 5737). Nothing is sent: connect() of UDP only picks a route.
_FAR_AWAY = ("203.0.113.1", 9)


def interfaces() -> tuple[Interface, ...]:
    """The interfaces that are up and have an IPv4 address, including the loopback."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    up_with_ipv4 = []
    for name, addresses in psutil.net_if_addrs().items():
        card = name.partition(":")[0]
        ipv4 = tuple(address.address for address in addresses if address.family == socket.AF_INET)
        if ipv4 and card in up:
            ipv6 = any(address.family == socket.AF_INET6 for address in addresses)
            up_with_ipv4.append(Interface(name, ipv4, ipv6, _rdma(card)))
    return tuple(up_with_ipv4)


def way_out() -> str | None:
    """The address of the interface on the default route; without a route, the first non-loopback address.

    None if the host only has the loopback.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_FAR_AWAY)
            return str(probe.getsockname()[0])
        except OSError:
            pass
    first_addresses = (interface.addresses[0] for interface in interfaces())
    return next((address for address in first_addresses if not address.startswith("127.")), None)


def _rdma(card: str) -> tuple[str, ...]:
    """The RDMA devices of an interface's card, as `DEVICE:PORT`; ports count from 1."""
    try:
        devices = sorted(device.name for device in (_SYS / card / "device" / "infiniband").iterdir())
        port = int((_SYS / card / "dev_port").read_text(encoding="ascii")) + 1
    except (OSError, ValueError):
        return ()
    return tuple(f"{device}:{port}" for device in devices)
