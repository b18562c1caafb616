"""What Prometheus needs: the targets of a deployment, and a configuration that reads them."""

from __future__ import annotations

import json
from typing import Any

from dynamoctl.planner.plan import DeploymentPlan

# Prometheus looks again when a file changes; this is for a folder that was not there yet.
_LOOK_AGAIN_S = 30

_CONFIG = """\
# Made by `dynamoctl export prometheus --format config`. This is a whole prometheus.yml; where you have one,
# take the job. dynamoctl writes the files while deployments are up, so it stays right when they come and go.
global:
  scrape_interval: 15s

scrape_configs:
  - job_name: dynamoctl
    file_sd_configs:
      - files: [{files}]
        refresh_interval: {refresh}s
"""


def targets(plan: DeploymentPlan) -> list[dict[str, Any]]:
    """The plan's units as target groups of `file_sd`, one each.

    Every unit has `/metrics` at the port that its gate asks: the frontend and LMCache's server at their HTTP
    port, a worker at Dynamo's status server.
    """
    groups = []
    for unit in plan.units:
        at = unit.gate.origin.removeprefix("http://")
        labels = {
            "deployment": plan.name,
            "unit": unit.name,
            "role": unit.role,
            "model": plan.model,
            "gpus": ",".join(str(gpu) for gpu in unit.gpus),  # Prometheus drops a label that is empty
        }
        groups.append({"targets": [at], "labels": labels})
    return groups


def config(files: str) -> str:
    """A `prometheus.yml` that scrapes what these files name: a path whose last part may be a pattern."""
    return _CONFIG.format(files=json.dumps(files), refresh=_LOOK_AGAIN_S)
