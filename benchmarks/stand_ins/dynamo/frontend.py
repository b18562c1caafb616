"""`python -m dynamo.frontend --http-port PORT`."""

from __future__ import annotations

import sys

from dynamo import serve

if __name__ == "__main__":
    serve(int(sys.argv[sys.argv.index("--http-port") + 1]))
