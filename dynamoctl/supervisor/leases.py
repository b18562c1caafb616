"""Leases in etcd: those of the dead are ended at once.

All that a process of Dynamo registers in etcd has one lease, its own. One that is killed cannot end it: it
stays listed until the lease has run out (10 s, Dynamo 1.4), and each request that is sent to it fails. The
port in a registration tells whose its lease is: the process listens there while it lives. A lease whose
process was never seen is left alone: it may be another host's. What a living process that does not answer has
registered is withheld: the keys are deleted, and later put back under the same lease, which its process goes
on to keep up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from dynamoctl.errors import DynamoctlError
from dynamoctl.host.processes import Identity, is_running, listeners
from dynamoctl.monitoring.etcd import Etcd


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
        self._withheld: dict[str, dict[bytes, bytes]] = {}
        self._returning: set[str] = set()
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
        with self._lock:
            self._put_back()
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
                self._withheld.pop(lease, None)
                self._returning.discard(lease)
                try:
                    self._etcd().revoke(lease)
                except DynamoctlError:
                    return

    def withhold(self, owners: Iterable[Identity]) -> None:
        """Take out of discovery what these have registered, until it is handed back; if etcd answers."""
        identities = set(owners)
        with self._lock:
            for lease in [one for one, owner in self._owners.items() if owner in identities]:
                self._returning.discard(lease)
                with suppress(DynamoctlError):
                    # Again and again: what etcd did not delete the last time is still there.
                    self._withheld.setdefault(lease, {}).update(self._etcd().take_out(lease))

    def hand_back(self, owners: Iterable[Identity]) -> None:
        """Put back what was withheld of these; where etcd does not answer, when it does."""
        identities = set(owners)
        with self._lock:
            self._returning |= {one for one in self._withheld if self._owners.get(one) in identities}
            self._put_back()

    def _put_back(self) -> None:
        for lease in sorted(self._returning):
            with suppress(DynamoctlError):
                self._etcd().put_back(lease, self._withheld.get(lease, {}))
                self._withheld.pop(lease, None)
                self._returning.discard(lease)

    def _is_here(self, address: str) -> bool:
        return address.rpartition(":")[0] == self._host
