"""`python -m dynamo.mocker`."""

from __future__ import annotations

import os

from dynamo import register, serve

if __name__ == "__main__":
    own = int(os.environ["DYN_SYSTEM_PORT"])
    register(own)
    serve(own)
