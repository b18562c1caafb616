"""LMCache's cache server without what nobody may ask it: `python -m dynamoctl.lmcache_server ARGUMENTS`.

Over HTTP, LMCache's server (0.5.3) tells its whole environment, secrets included (GET /env), and runs code
that it is sent (POST /run_script). It asks nobody who they are, so that every user of the machine could do
so. Here both paths are not there.
"""

from __future__ import annotations

import sys
from typing import Any

CLOSED = ("/env", "/run_script")


def close(app: Any) -> None:
    """Take these paths out of a FastAPI application."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in CLOSED]


def main() -> None:
    """LMCache's own `lmcache server`."""
    from lmcache.cli.main import main as lmcache
    from lmcache.v1.multiprocess import http_server

    close(http_server.app)
    sys.argv.insert(1, "server")
    lmcache()


if __name__ == "__main__":
    main()
