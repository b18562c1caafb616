"""What each host of a deployment says of its versions, in etcd.

Neither Dynamo's instances nor its model cards have versions. So the supervisor of each host writes a record
below `v1/dynamoctl/`, and a host whose versions differ from those of a record does not start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from dynamoctl import __version__
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.tested_versions import differences, engine_versions

KIND = "dynamoctl"
FIX = (
    "install the same versions on all hosts of the deployment (take it down everywhere before an update), or"
    " give this one another name: -n NAME"
)
# Packages whose processes talk to those of other hosts.
_PACKAGES = {"vllm": ("ai-dynamo", "vllm", "nixl", "lmcache"), "mocker": ("ai-dynamo",)}


@dataclass(frozen=True)
class HostRecord:
    """One host of a deployment.

    Attributes:
        address: the address that it advertises.
        versions: package -> version, of what talks to other hosts.
    """

    address: str
    versions: Mapping[str, str]

    def as_json(self) -> bytes:
        """The record as it is in etcd."""
        return json.dumps(asdict(self)).encode()


def of_this_host(plan: DeploymentPlan, installed: Mapping[str, str]) -> HostRecord:
    """The record of the host of a plan.

    Args:
        installed: distribution -> version.
    """
    by_name = engine_versions(installed, plan.device)
    packages = {name: by_name[name] for name in _PACKAGES[plan.engine] if name in by_name}
    return HostRecord(plan.address, {"dynamoctl": __version__, **packages})


def parse(entries: Iterable[bytes]) -> list[HostRecord]:
    """The records among entries of etcd; what is not one is left out."""
    records = []
    for entry in entries:
        try:
            body = json.loads(entry)
            versions = {str(name): str(version) for name, version in body["versions"].items()}
            records.append(HostRecord(str(body["address"]), versions))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return sorted(records, key=lambda record: record.address)


def conflicts(mine: HostRecord, others: Iterable[HostRecord]) -> list[str]:
    """One sentence for each other host whose versions were not run beside those of this one.

    A record with the address of this host is one of an earlier start.
    """
    return [
        f"{other.address}, a host of this deployment, has other versions: {'; '.join(differing)}"
        for other in others
        if other.address != mine.address and (differing := differences(mine.versions, other.versions))
    ]
