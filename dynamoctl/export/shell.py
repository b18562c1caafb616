"""A plan as one bash script: the same processes in the same order, without a supervisor.

It waits at the same gates, asks for a completion, and stops everything in reverse when it is ended or when
one of the processes ends. It restarts nothing.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import quote

from dynamoctl import __version__, policies
from dynamoctl.export import local
from dynamoctl.humanize import one_line
from dynamoctl.planner.plan import DeploymentPlan, Gate, Unit
from dynamoctl.planner.printed import wrap

# A socket's path has no more than 107 bytes, and LMCache in process has names of 80: the folder's is short.
_FOLDER = "mktemp -d /tmp/dctl-XXXXXXXX"

# How often the script looks whether the helpers of a unit have ended, seconds: `sleep 0.2` below.
_HELPERS_INTERVAL_S = 0.2

_SIGNALS = {"INT": 2, "TERM": 15, "HUP": 1}

_FUNCTIONS = r"""
say() { printf '%s: %s\n' "$name" "$*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

declare -A pids=()

start() { # UNIT: its function, in a session and a folder of its own
  mkdir "$folder/$1"
  (cd "$folder/$1" && "$1") </dev/null >"$logs/$1.log" 2>&1 &
  pids[$1]=$!
  say "$1 starts"
}

lives() { kill -0 "${pids[$1]}" 2>/dev/null; }

all_live() {
  local unit
  for unit in "${!pids[@]}"; do
    lives "$unit" && continue
    tail -n 10 "$logs/$unit.log" >&2
    fail "$unit has ended; its log is $logs/$unit.log"
  done
}

get() { curl --silent --globoff --noproxy '*' --max-time %(probe)s "$@"; }
is_200() { get --fail --output /dev/null "$1"; }
says() { get "$1" | grep -E "$2" >/dev/null; }

await() { # WHAT COMMAND...: ask again and again
  local what=$1
  shift
  until "$@"; do
    all_live
    ((SECONDS < timeout)) || fail "$what is not ready after $timeout s; the logs are in $logs"
    sleep 0.5
  done
  say "$what is ready after $SECONDS s"
}

end() { # UNITS...: one SIGTERM each, time to end, and SIGKILL for what is left of their sessions
  local unit until=$((SECONDS + patience))
  for unit in "$@"; do
    [[ -v pids[$unit] ]] || continue
    say "$unit stops"
    kill -TERM "${pids[$unit]}" 2>/dev/null || true
  done
  for unit in "$@"; do
    [[ -v pids[$unit] ]] || continue
    while lives "$unit" && ((SECONDS < until)); do sleep 0.2; done
    for _ in {1..%(helpers)s}; do # its helpers end by themselves, and remove what it shared
      kill -0 -- "-${pids[$unit]}" 2>/dev/null || break
      sleep 0.2
    done
    if kill -KILL -- "-${pids[$unit]}" 2>/dev/null; then say "what was left of $unit was killed"; fi
  done
}

stop() {
  local code=$?
  trap '' INT TERM HUP
%(end)s
  rm -rf "$folder"
  exit "$code"
}
"""


def script(plan: DeploymentPlan) -> str:
    """The script.

    Raises:
        SpecError: a command line has a secret in it.
    """
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: DeploymentPlan) -> Iterator[str]:
    secrets = local.secrets(plan)
    yield "#!/usr/bin/env bash"
    yield from (f"# {one_line(line)}".rstrip() for line in _head(plan, secrets))
    # Units are functions, called by their names; what a user gave is literal.
    yield "# shellcheck disable=SC1003,SC2016,SC2317,SC2329"
    yield "set -euo pipefail"
    yield ""
    yield from _settings(plan)
    yield from _functions(plan).splitlines()
    yield from ("", "# ---- before anything is started", "")
    yield from _checks(plan, secrets)
    yield from ("", "# ---- what every process gets", "")
    yield from _environment(plan)
    yield from ("", "# ---- the processes")
    for unit in plan.units:
        yield ""
        yield from _function(plan, unit)
    yield from ("", "# ---- start, in order", "")
    yield from _starts(plan)
    yield from _proof(plan)
    yield ""
    yield "while all_live; do"
    yield "  sleep 1 &"
    yield "  wait $!  # unlike a sleep in the foreground, it ends at a signal"
    yield "done"


def _functions(plan: DeploymentPlan) -> str:
    values = {
        "end": "\n".join(_ends(plan)),
        "helpers": str(round(policies.TRACKER_PATIENCE_S / _HELPERS_INTERVAL_S)),
        "probe": f"{policies.PROBE_TIMEOUT_S:g}",
    }
    text = _FUNCTIONS
    for name, value in values.items():
        text = text.replace(f"%({name})s", value)
    return text


def _head(plan: DeploymentPlan, secrets: tuple[str, ...]) -> Iterator[str]:
    yield f"{plan.name}: {plan.mode}, {plan.model}, at {plan.endpoint}/v1"
    yield ""
    yield f"Written by dynamoctl {__version__}: dynamoctl export shell {plan.mode}."
    yield "It starts the processes of the plan in their order, waits until a completion came back, and stays."
    yield "Ctrl-C, SIGTERM, or the end of one of them stops all, the last first. Nothing is restarted, and"
    yield "nobody keeps the registration of a process that was frozen: `dynamoctl up` does both."
    yield ""
    yield "It needs bash, curl and setsid, and the Python environment for which it was written."
    yield "The logs are in ./NAME-logs, or in $LOGS."
    if secrets:
        yield f"Set before: {', '.join(secrets)}."


def _settings(plan: DeploymentPlan) -> Iterator[str]:
    yield f"name={plan.name}"
    yield f"python={shlex.quote(plan.units[0].argv[0])}"
    yield f"model={shlex.quote(plan.model)}"
    yield f"endpoint={shlex.quote(plan.endpoint)}"
    yield 'logs=$(realpath -m "${LOGS:-$name-logs}")'
    yield f"timeout={math.ceil(plan.timeout_s)}  # seconds until it must have answered"
    yield f"patience={local.patience_s(plan)}  # seconds that each process gets to end"


def _checks(plan: DeploymentPlan, secrets: Iterable[str]) -> Iterator[str]:
    """What must be there, and the folders; from here on everything is cleaned up."""
    for secret in secrets:
        yield f': "${{{secret}:?set it; it is a secret, and not written here}}"'
    yield '[[ -x $python ]] || fail "$python, with the engine\'s packages, is not there"'
    if plan.model_path.startswith("/"):
        there = shlex.quote(f"{plan.model_path}/config.json")
        yield f"[[ -f {there} ]] || fail {shlex.quote(f'there is no model in {plan.model_path}')}"
    for host, ports in local.ports(plan).items():
        test = f'if (: <>{_socket(host)}) 2>/dev/null; then fail "port $port is taken"; fi'
        if len(ports) == 1:  # shellcheck wants no loop over one
            yield from (f"port={ports[0]}", test)
        else:
            yield from _wrapped("for port in", [str(port) for port in ports], "; do")
            yield from (f"  {test}", "done")
    yield 'ulimit -Sn "$(ulimit -Hn)"  # vLLM asks for 65535 open files'
    yield "umask 077"
    yield 'mkdir -p "$logs"'
    for tier in plan.lmcache_tiers:
        if tier.kind in ("disk", "gds"):
            yield f"mkdir -p {shlex.quote(tier.place)}"
    yield f"folder=$({_FOLDER})"
    yield "trap stop EXIT"
    yield from (f"trap 'exit {128 + number}' {name}" for name, number in _SIGNALS.items())


def _socket(host: str) -> str:
    """bash's name of the socket at `$port` of a host, as a shell word."""
    return (
        f'"/dev/tcp/{host}/$port"'
        if host == shlex.quote(host)
        else f'{shlex.quote(f"/dev/tcp/{host}/")}"$port"'
    )


def _environment(plan: DeploymentPlan) -> Iterator[str]:
    yield from _wrapped("unset", sorted({name for unit in plan.units for name in unit.unset}), "")
    yield 'mkdir "$folder/store"  # fresh: a stale one lists a model that is not there'
    yield 'export DYN_FILE_KV="$folder/store"'
    if plan.engine == "vllm":
        yield 'export VLLM_RPC_BASE_PATH="$folder"  # its sockets'
    yield from (_assignment(name, value) for name, value in local.shared(plan).items())


def _function(plan: DeploymentPlan, unit: Unit) -> Iterator[str]:
    yield f"{unit.name}() {{"
    yield from (f"  {_assignment(name, value)}" for name, value in local.own(plan, unit).items())
    words = replace(unit, argv=("PYTHON", *unit.argv[1:])).argv
    yield "  exec setsid " + wrap(words, 4).replace("PYTHON", '"$python"', 1)
    yield "}"


def _starts(plan: DeploymentPlan) -> Iterator[str]:
    """Each unit is started when the gates of those that it waits for have passed."""
    waiting = {unit.name: unit for unit in plan.units}
    for unit in plan.units:
        for name in unit.after:
            if name in waiting:
                yield _await(waiting.pop(name))
        yield f"start {unit.name}"
    yield from (_await(unit) for unit in waiting.values())


def _proof(plan: DeploymentPlan) -> Iterator[str]:
    """Gates are not enough: the frontend lists the model as complete, and a completion comes back."""
    body = {"model": plan.model, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    yield f"""await "$model" says "$endpoint/v1/models/{quote(plan.model)}/ready" '"ready": *true'"""
    limit = f"--max-time {policies.COMPLETION_TIMEOUT_S:g}"
    yield f"await 'a completion' get --fail --output /dev/null {limit} \\"
    yield "  --header 'Content-Type: application/json' \\"
    yield f"  --data {shlex.quote(json.dumps(body))} \\"
    yield '  "$endpoint/v1/completions"'
    yield 'say "serves $model at $endpoint/v1; Ctrl-C ends it"'


def _await(unit: Unit) -> str:
    return f"await {unit.name} {gate_test(unit.gate)}"


def gate_test(gate: Gate) -> str:
    """A gate as one of the script's tests."""
    url = shlex.quote(f"{gate.origin}{gate.path}")
    if gate.kind == "http":
        return f"is_200 {url}"
    return f"""says {url} '"generate": *"ready"'"""


def _ends(plan: DeploymentPlan) -> Iterator[str]:
    for roles in policies.STOP_ORDER:
        names = [unit.name for unit in plan.units if unit.role in roles]
        if names:
            yield from _wrapped("  end", names, "")


def _assignment(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _wrapped(first: str, words: Iterable[str], last: str) -> list[str]:
    """One command over as many lines as it needs."""
    lines, line = [], first
    for word in words:
        if len(line) + len(word) > 100:
            lines.append(f"{line} \\")
            line = "   "
        line += f" {word}"
    return [*lines, line + last]
