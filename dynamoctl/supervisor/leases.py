"""Leases in etcd: revoke the lease of a dead process at once.

Each Dynamo process has one lease, and all its registrations in etcd belong to it. A killed process cannot
revoke its lease: it stays listed until the lease expires (rule `etcd-lease`), and each request sent to it
fails. The port in a registration identifies the lease's owner: the process listens on it while it lives. A
lease whose process was never seen is left alone, because it may belong to another host.

The registrations of a process that lives but does not answer are withheld: the keys are deleted, and later
put back under the same lease, which the process keeps renewing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from dynamoctl.errors import DynamoctlError
from dynamoctl.host.processes import Identity, is_running, listeners
from dynamoctl.monitoring.etcd import Etcd


class Leases:
    """The leases of this host's units. Thread-safe.

    Args:
        etcd: returns a client of the etcd.
        namespace: the deployment's Dynamo namespace.
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
        """Find the owners of new leases. Does nothing if etcd does not answer.

        Args:
            living: returns the units' living processes; called only if there is a new lease.
        """
        try:
            known = self._etcd().leases(self._namespace)
        except DynamoctlError:
            return
        with self._lock:
            self._put_back()
        address_by_lease = {lease: address for lease, address in known.items() if self._is_here(address)}
        with self._lock:
            new = address_by_lease.keys() - self._owners.keys()
            if not new:
                return
            owner_by_port = listeners(living())
            for lease in new:
                port = address_by_lease[lease].rpartition(":")[2]
                if port.isdecimal() and int(port) in owner_by_port:
                    self._owners[lease] = owner_by_port[int(port)]

    def has_any(self, owners: Iterable[Identity]) -> bool:
        """Whether one of these processes has a lease that was seen."""
        identities = set(owners)
        with self._lock:
            return any(owner in identities for owner in self._owners.values())

    def end_those_of_the_dead(self) -> None:
        """Revoke the leases of dead processes. If etcd does not answer, they expire by themselves."""
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
        """Remove these processes' registrations from etcd until `hand_back`. Does nothing without etcd."""
        identities = set(owners)
        with self._lock:
            for lease in [lease for lease, owner in self._owners.items() if owner in identities]:
                self._returning.discard(lease)
                with suppress(DynamoctlError):
                    # Repeated on every call, because etcd may not have deleted every key the last time.
                    self._withheld.setdefault(lease, {}).update(self._etcd().take_out(lease))

    def hand_back(self, owners: Iterable[Identity]) -> None:
        """Put back the withheld registrations of these processes, now or as soon as etcd answers."""
        identities = set(owners)
        with self._lock:
            self._returning |= {lease for lease in self._withheld if self._owners.get(lease) in identities}
            self._put_back()

    def _put_back(self) -> None:
        for lease in sorted(self._returning):
            with suppress(DynamoctlError):
                self._etcd().put_back(lease, self._withheld.get(lease, {}))
                self._withheld.pop(lease, None)
                self._returning.discard(lease)

    def _is_here(self, address: str) -> bool:
        return address.rpartition(":")[0] == self._host
