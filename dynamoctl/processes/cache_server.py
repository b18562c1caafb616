"""LMCache's cache server without its unsafe HTTP routes. Run as `python -m dynamoctl.processes.cache_server`.

Over HTTP, LMCache's server (0.5.3) returns its whole environment, including secrets (GET /env), and runs code
that a client sends (POST /run_script). It does not authenticate clients, so that every user of the machine
could do both. This module removes both routes.

The server also names its shared memory pool after its pid (lmcache==0.5.3:lmcache/v1/distributed/config.py:
L1MemoryManagerConfig.shm_name). A killed server leaves a file of the whole cache size whose owner is not
certain: the pid may belong to another process by then, and containers that share /dev/shm have the same pids.
Under a supervisor, the pool is named after the start and the unit, so that it can be removed safely, and
what a worker process has registered is removed when it has ended (`cache_clients`).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from dynamoctl.host.files import SHARED_MEMORY, Files
from dynamoctl.host.processes import MARK
from dynamoctl.processes import cache_clients, quick_imports

HELP = frozenset(("-h", "--help"))
CLOSED = ("/env", "/run_script")
# LMCache prepends the first part to any name that does not begin with it.
_POOL = "lmcache_l1_pool_dynamoctl-"


def pool(mark: str) -> str:
    """The name of a unit's pool.

    Args:
        mark: the mark of the unit's processes, `START-ID/UNIT`.
    """
    return _POOL + mark.replace("/", "-")


def pools(start_id: str) -> Files:
    """The existing pools of a start's units that belong to this user. Their names are unique to the start."""
    if not start_id:
        return {}
    try:
        with os.scandir(SHARED_MEMORY) as entries:
            own = [entry for entry in entries if entry.name.startswith(pool(f"{start_id}/"))]
            return {entry.path: None for entry in own if entry.stat().st_uid == os.geteuid()}
    except OSError:
        return {}


def close(app: Any) -> None:
    """Remove the `CLOSED` routes from a FastAPI application."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in CLOSED]


def main() -> None:
    """Run LMCache's `lmcache server` with the process's arguments."""
    with quick_imports.without_collector():
        from lmcache.cli.main import main as lmcache
        from lmcache.v1.distributed.l2_adapters import factory
        from lmcache.v1.multiprocess import http_server

    if not HELP.intersection(sys.argv):
        quick_imports.only_named_adapters(factory, sys.argv)
    close(http_server.app)
    sys.argv.insert(1, "server")
    mark = os.environ.get(MARK)
    if mark:
        cache_clients.watch(http_server.app)
    if mark and "--shm-name" not in sys.argv:
        sys.argv += ["--shm-name", pool(mark)]
        # A pool is left if the server was killed together with its resource tracker. LMCache removes it too,
        # but only after its check for free space, which the old pool can make fail.
        with suppress(FileNotFoundError):
            (SHARED_MEMORY / pool(mark)).unlink()
    lmcache()


if __name__ == "__main__":
    main()
