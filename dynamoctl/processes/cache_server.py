"""LMCache's cache server without its unsafe HTTP routes. Run as `python -m dynamoctl.processes.cache_server`.

Over HTTP, LMCache's server (0.5.3) tells its whole environment, secrets included (GET /env), and runs code
that it is sent (POST /run_script). It asks nobody who they are, so that every user of the machine could do
so. Here both paths are not there.

And it names its pool of shared memory after its own pid (lmcache==0.5.3:lmcache/v1/distributed/config.py:
L1MemoryManagerConfig.shm_name). Killed, it leaves a file of the whole cache size that nobody can be sure of:
the pid is another process's by then, and containers that share /dev/shm have the same pids. Under a
supervisor the pool has the name of the start and of the unit, so that it can be removed for certain.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from dynamoctl.host.files import SHARED_MEMORY, Files
from dynamoctl.host.processes import MARK

CLOSED = ("/env", "/run_script")
# LMCache would put the first part before any other name.
_POOL = "lmcache_l1_pool_dynamoctl-"


def pool(mark: str) -> str:
    """The name of the pool of a unit, by what its processes carry (`START-ID/UNIT`)."""
    return _POOL + mark.replace("/", "-")


def pools(start_id: str) -> Files:
    """The pools of all units of a start that are there, and are this user's. Their names are proof enough."""
    if not start_id:
        return {}
    try:
        with os.scandir(SHARED_MEMORY) as entries:
            own = [one for one in entries if one.name.startswith(pool(f"{start_id}/"))]
            return {one.path: None for one in own if one.stat().st_uid == os.geteuid()}
    except OSError:
        return {}


def close(app: Any) -> None:
    """Take these paths out of a FastAPI application."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in CLOSED]


def main() -> None:
    """LMCache's own `lmcache server`."""
    from lmcache.cli.main import main as lmcache
    from lmcache.v1.multiprocess import http_server

    close(http_server.app)
    sys.argv.insert(1, "server")
    mark = os.environ.get(MARK)
    if mark and "--shm-name" not in sys.argv:
        sys.argv += ["--shm-name", pool(mark)]
        # Of a server that was killed together with its resource tracker. LMCache would remove it too, but
        # only after it has looked whether there is room for another, and without room it shares no memory.
        with suppress(FileNotFoundError):
            (SHARED_MEMORY / pool(mark)).unlink()
    lmcache()


if __name__ == "__main__":
    main()
