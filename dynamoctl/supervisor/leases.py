"""Leases in etcd: those of the dead are ended at once.

All that a process of Dynamo registers in etcd has one lease, its own. One that is killed cannot end it: it
stays listed until the lease has run out (10 s, Dynamo 1.4), and each request that is sent to it fails. The
port in a registration tells whose its lease is: the process listens there while it lives. A lease whose
process was never seen is left alone: it may be another host's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from dynamoctl.errors import DynamoctlError
from dynamoctl.etcd import Etcd
from dynamoctl.host.processes import Identity, is_running, listeners


class Leases:
    """The leases of this host's units. Safe to use from threads.

    Args:
        etcd: gives the etcd to ask.
        namespace: Dynamo's, of the deployment.
        host: the address that this host's units register.
    """

    def __init__(self, etcd: Callable[[], Etcd], namespace: str, host: str) -> None:
        self._etcd = etcd
        self._namespace = namespace
        self._host = host
        self._owners: dict[str, Identity] = {}
        self._lock = threading.Lock()

    def learn(self, living: Callable[[], Iterable[Identity]]) -> None:
        """Find out whose the new ones are.

        Args:
            living: gives the units' living processes; asked only where there is a new lease.
        """
        try:
            known = self._etcd().leases(self._namespace)
        except DynamoctlError:
            return
        here = {lease: address for lease, address in known.items() if self._is_here(address)}
        with self._lock:
            new = here.keys() - self._owners.keys()
            if not new:
                return
            there = listeners(living())
            for lease in new:
                port = here[lease].rpartition(":")[2]
                if port.isdecimal() and int(port) in there:
                    self._owners[lease] = there[int(port)]

    def end_those_of_the_dead(self) -> None:
        """Where etcd does not answer, they run out by themselves."""
        with self._lock:
            for lease, owner in list(self._owners.items()):
                if is_running(owner):
                    continue
                del self._owners[lease]
                try:
                    self._etcd().revoke(lease)
                except DynamoctlError:
                    return

    def _is_here(self, address: str) -> bool:
        return address.rpartition(":")[0] == self._host
