"""`python -m dynamoctl.supervisor FOLDER`: run the plan that `up` wrote to the deployment's folder."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.run import run

if __name__ == "__main__":
    sys.exit(asyncio.run(run(Deployment(Path(sys.argv[1]).name))))
