"""What LMCache's server holds for processes that have died."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dynamoctl.host.processes import identify
from dynamoctl.patches.lmcache_instance import instance_id
from dynamoctl.processes.cache_clients import CacheClients


class Module:
    """One of the server's, with those who are registered under the key of a GPU's or a CPU's."""

    def __init__(self, key: str, *instances: int) -> None:
        self.key, self.instances = key, list(instances)

    def report_status(self) -> dict[str, Any]:
        return {self.key: list(self.instances), "else": [1]}

    def unregister_kv_cache(self, instance: int) -> None:
        self.instances.remove(instance)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    one = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield one
    one.kill()
    one.communicate()


@pytest.mark.parametrize("key", ["registered_gpu_ids", "registered_non_cuda_instance_ids"])
def test_what_a_process_registered_goes_with_it_and_the_rest_stays(
    process: subprocess.Popen[bytes], key: str
) -> None:
    identity = identify(process.pid)
    assert identity is not None
    instance, unknown = instance_id(identity.pid, identity.start_ticks), 2**62 + 1
    module, other = Module(key, unknown, instance), Module("what it does not look at", 5)
    modules = [object(), module, other]  # most of the server's modules register nobody
    clients = CacheClients()
    for _ in range(2):
        assert clients.remove_dead(modules) == []
    process.kill()
    process.wait()
    assert clients.remove_dead(modules) == [instance]
    assert clients.remove_dead(modules) == []
    assert (module.instances, other.instances) == ([unknown], [5])


def test_another_process_with_the_same_pid_is_another(process: subprocess.Popen[bytes]) -> None:
    """It was never seen alive: so nothing is known of it."""
    identity = identify(process.pid)
    assert identity is not None
    module = Module("registered_gpu_ids", instance_id(identity.pid, identity.start_ticks - 1))
    clients = CacheClients()
    for _ in range(2):
        assert clients.remove_dead([module]) == []
