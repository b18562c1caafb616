"""`python -m dynamoctl.supervisor FOLDER`: run the plan that `up` has written there."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.run import run

if __name__ == "__main__":
    sys.exit(asyncio.run(run(Deployment(Path(sys.argv[1]).name))))
