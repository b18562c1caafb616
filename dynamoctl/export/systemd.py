"""A plan as systemd units: a service for each of its processes, and a target over them.

systemd starts them in the plan's order, each when those before it are ready (`ExecStartPost=` asks the gate),
stops them in reverse and restarts what ends. The processes find each other in a folder below `/run`, which a
service of its own makes anew at each start.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from dynamoctl import __version__, policies
from dynamoctl.errors import SpecError
from dynamoctl.export import local
from dynamoctl.humanize import one_line
from dynamoctl.planner.plan import DeploymentPlan, Gate, Unit

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Manager:
    """Which of systemd's managers runs it.

    Attributes:
        scope: `user`: the user's own, without root; `system`: that of the machine.
        run_as: the user whose processes they are (`system`).
    """

    scope: str = "user"
    run_as: str | None = None

    def __post_init__(self) -> None:
        if self.scope == "system" and not self.run_as:
            raise SpecError(
                "--run-as: the machine's own manager would run the engine as root",
                "name the user whose processes they shall be, as in --run-as llm",
            )
        if self.scope == "user" and self.run_as:
            raise SpecError(
                "--run-as: a user's manager runs everything as that user",
                "add --scope system, or leave it out",
            )

    @property
    def systemctl(self) -> str:
        """The command, as far as its scope."""
        return "systemctl --user" if self.scope == "user" else "sudo systemctl"

    @property
    def folder(self) -> str:
        """Where unit files go."""
        return "~/.config/systemd/user" if self.scope == "user" else "/etc/systemd/system"


def units(plan: DeploymentPlan, manager: Manager) -> dict[str, str]:
    """File -> text.

    Raises:
        SpecError: a command line has a secret in it.
    """
    secrets = local.secrets(plan)
    stem = f"dynamoctl-{plan.name}"
    files = {
        f"{stem}.target": _target(plan, manager, secrets),
        f"{stem}-store.service": _store(plan, manager),
    }
    for unit in plan.units:
        files[f"{stem}-{unit.name}.service"] = _service(plan, unit, manager, bool(secrets))
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


def together(files: Mapping[str, str]) -> str:
    """All of them in one text, for a look."""
    return "\n".join(f"# ==== {name}\n\n{text}" for name, text in files.items())


# ---- files ----------------------------------------------------------------------------------


def _target(plan: DeploymentPlan, manager: Manager, secrets: tuple[str, ...]) -> list[str]:
    stem = f"dynamoctl-{plan.name}"
    file = "~/.config/dynamoctl" if manager.scope == "user" else "/etc/dynamoctl"
    settings = f"{file}/{plan.name}.env"
    lines = [
        one_line(f"# {plan.name}: {plan.mode}, {plan.model}, at {plan.endpoint}/v1"),
        f"# Written by dynamoctl {__version__}: dynamoctl export systemd {plan.mode}.",
        "#",
        "# Copy the files of this folder, and start:",
        f"#   {'' if manager.scope == 'user' else 'sudo '}cp {stem}* {manager.folder}/",
        f"#   {manager.systemctl} daemon-reload",
        f"#   {manager.systemctl} enable --now {stem}.target    (returns when every unit is ready)",
        f"#   {manager.systemctl} stop {stem}.target            (in reverse order)",
        f"#   {manager.systemctl} list-units '{stem}*'",
    ]
    if manager.scope == "user":
        lines.append(
            "#   loginctl enable-linger                            (to run without a login, from boot on)"
        )
    lines.append("#")
    if secrets:
        lines.append(f"# {settings} must be there, with mode 0600, and set: {', '.join(secrets)}")
    else:
        lines.append(
            f"# More environment, as HF_TOKEN and HF_HOME: {settings}, with mode 0600, if it is there."
        )
    return [
        *lines,
        "",
        "[Unit]",
        f"Description={_escaped(one_line(f'{plan.name}: {plan.model} on Dynamo'))}",
        *_wants(f"{stem}-{name}.service" for name in ("store", *(unit.name for unit in plan.units))),
        "",
        "[Install]",
        f"WantedBy={'default' if manager.scope == 'user' else 'multi-user'}.target",
    ]


def _store(plan: DeploymentPlan, manager: Manager) -> list[str]:
    stem = f"dynamoctl-{plan.name}"
    return [
        "[Unit]",
        f"Description={plan.name}: the folder in which its processes find each other",
        f"PartOf={stem}.target",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        *_user(manager),
        f"RuntimeDirectory={stem}",
        "RuntimeDirectoryMode=0700",
        "# Fresh: a stale one lists a model that is not there.",
        f"ExecStart=/bin/rm -rf %t/{stem}/store",
        f"ExecStart=/bin/mkdir -m 700 %t/{stem}/store",
    ]


def _service(plan: DeploymentPlan, unit: Unit, manager: Manager, has_secrets: bool) -> list[str]:
    stem = f"dynamoctl-{plan.name}"
    place = f" on GPU {','.join(str(gpu) for gpu in unit.gpus)}" if unit.gpus else ""
    before = [f"{stem}-{name}.service" for name in unit.after]
    network = ["network-online.target"] if manager.scope == "system" else []
    return [
        "[Unit]",
        f"Description={plan.name}: {unit.name} ({unit.role}){place}",
        f"PartOf={stem}.target",
        f"Requires={stem}-store.service",
        f"After={stem}-store.service",
        # Not Requires=: with it, systemd would restart a worker when it restarts the frontend.
        *(f"{key}={name}" for name in (*network, *before) for key in ("Wants", "After")),
        f"StartLimitIntervalSec={policies.RESTART_WINDOW_S:g}",
        f"StartLimitBurst={policies.RESTART_LIMIT + 1}",
        "",
        "[Service]",
        "Type=exec",
        *_user(manager),
        "UMask=0077",
        f"RuntimeDirectory={stem}/{unit.name}",
        "RuntimeDirectoryMode=0700",
        f"WorkingDirectory=%t/{stem}/{unit.name}",
        f"EnvironmentFile={'' if has_secrets else '-'}%E/dynamoctl/{plan.name}.env",
        *_environment(plan, unit),
        f"UnsetEnvironment={' '.join(unit.unset)}",
        f"ExecStart={_command(unit.argv)}",
        f"ExecStartPost={_gate(unit.gate)}",
        f"TimeoutStartSec={plan.timeout_s:g}",
        "# One SIGTERM to the first process. Its helpers end by themselves, and remove what it shared;",
        "# what is left of the unit after that gets SIGKILL.",
        "KillMode=mixed",
        f"ExecStopPost=/bin/sleep {policies.TRACKER_PATIENCE_S:g}",
        f"TimeoutStopSec={local.patience_s(plan)}",
        "# Any end that nobody asked for is a failure, exit code 0 too.",
        "Restart=always",
        f"RestartSec={policies.BACKOFF_FIRST_S:g}",
        "LimitNOFILE=65535",
    ]


def _user(manager: Manager) -> list[str]:
    return [f"User={_escaped(manager.run_as)}"] if manager.run_as else []


def _wants(names: Iterable[str]) -> Iterator[str]:
    yield from (f"Wants={name}" for name in names)


def _environment(plan: DeploymentPlan, unit: Unit) -> Iterator[str]:
    own = PurePosixPath(unit.argv[0]).parent
    env = {
        # The interpreter's folder has programs that engines start (ninja, for one).
        "PATH": f"{own}:{_SYSTEM_PATH}" if own.is_absolute() else _SYSTEM_PATH,
        "DYN_FILE_KV": f"%t/dynamoctl-{plan.name}/store",
    }
    yield from (f"Environment={name}={value}" for name, value in env.items())
    written = {**local.shared(plan), **local.own(plan, unit)}
    for name, value in written.items():
        yield f"Environment={_quoted(_escaped(f'{name}={value}'))}"


def _gate(gate: Gate) -> str:
    """A shell's line that ends when the unit is ready, or has ended."""
    # No proxy of the user's: what is asked is on this machine. In the list, IPv6 has no brackets.
    direct = ",".join(dict.fromkeys(("localhost", policies.LOOPBACK, gate.host.strip("[]"))))
    ask = f"curl --silent --noproxy {shlex.quote(direct)} --max-time {policies.PROBE_TIMEOUT_S:g}"
    url = shlex.quote(f"{gate.origin}{gate.path}")
    if gate.kind == "http":
        test = f"{ask} --fail --output /dev/null {url}"
    else:
        test = f'{ask} {url} | grep -q "\\"generate\\": *\\"ready\\""'
    script = f"until {test}; do kill -0 $MAINPID || exit 1; sleep 1; done"
    return f"/bin/sh -c {_word(script)}"


def _command(argv: tuple[str, ...]) -> str:
    """A command line, one option a line."""
    lines: list[str] = []
    current: list[str] = []
    for word in argv:
        if word.startswith("--") and current:
            lines.append(" ".join(current))
            current = []
        current.append(_word(word))
    lines.append(" ".join(current))
    return " \\\n  ".join(lines)


# ---- quoting, systemd.syntax(7) -------------------------------------------------------------


def _escaped(text: str) -> str:
    """Escape each %, which systemd would take for a specifier."""
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """One word of a command line, literally: $$ is a $."""
    return _quoted(_escaped(text).replace("$", "$$"))


def _quoted(text: str) -> str:
    """One word of a line."""
    if text and text.isprintable() and not set(text) & set(" '\"\\;"):
        return text
    if not set(text) & set("'\\") and text.isprintable():
        return f"'{text}'"
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}" for c in text) + '"'
