"""Engine arguments that users cannot give, because the rest of the plan depends on them."""

from __future__ import annotations

from itertools import pairwise

from dynamoctl.errors import SpecError
from dynamoctl.planner import secrets

# Arguments of the engine that the planner decides, and how to say what is wanted: ports, GPUs, memory and
# the names under which workers find each other follow from them.
_OWNED = {
    "--model": "name it before the --, as in: dynamoctl up agg --model NAME",
    "--served-model-name": "give --served-model-name before the --",
    "--tensor-parallel-size": "give --tp before the --",
    "-tp": "give --tp before the --",
    "--disaggregation-mode": "`up agg` and `up disagg` give each worker its own",
    "--kv-transfer-config": "it follows from the mode and from --lmcache-mode or --no-lmcache",
    "--kv-events-config": "--router-mode kv, before the --, turns KV events on",
    "--host": "the frontend listens for clients: give --host before the --",
    "--port": "the frontend listens for clients: give --port before the --",
    "--connector": "Dynamo no longer takes it; it follows from the mode and from LMCache's flags",
}


def check(arguments: tuple[str, ...]) -> None:
    """The user's own arguments win over the planner's, but for those on which the rest of the plan stands.

    Raises:
        SpecError: a token or password is among them, which every user of the machine could read; or what the
            planner decides.
    """
    for word, after in pairwise((*arguments, "")):
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        has_value = bool(equals) or bool(after and not after.startswith("-"))
        if name.startswith("--") and secrets.is_secret_name(name.replace("-", "_")) and has_value:
            raise SpecError(
                f"engine arguments: the value of {name} would be in the worker's command line, for everybody"
                " to read",
                "set it in the environment or in [env], as HF_TOKEN",
            )
        if name in _OWNED:
            raise SpecError(f"engine arguments: {name} is decided by the plan", _OWNED[name])
