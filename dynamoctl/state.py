"""The folder of a deployment: its plan, its units' identities, its logs.

    HOME/deployments/NAME/
        plan.json       the spec and the plan that runs
        plans/N.json    the plans of earlier and later changes (`supervisor.revisions`)
        state.json      the current state; only the supervisor writes it, atomically
        logs/UNIT.log   output of each unit; also supervisor.log
        run/UNIT/       the unit's working folder, empty when it starts; UNIT.standby/ of its standby
        store/          Dynamo's file discovery, new for every start
        control.sock    socket on which the supervisor answers `status`
        lock            held by a command that changes the deployment
    HOME/lock           held while a start reads the plans of other deployments
    HOME/prometheus/
        NAME.json       the deployment's Prometheus targets; only while it is up

HOME is $DYNAMOCTL_HOME or the user's state folder. `status` imports this, so it imports nothing slow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.host.files import FileIdentity, Files
from dynamoctl.host.locks import cannot_write_in, locked
from dynamoctl.host.processes import Identity, is_running
from dynamoctl.humanize import path_of

VERSION = 1
# The folder in HOME for Prometheus targets.
TARGETS = "prometheus"
_OTHERS = "only its owner may read a deployment: become that user, or set DYNAMOCTL_HOME to another folder"

# `supervisor.lifecycle` defines the transitions between these states.
UnitStateName = Literal[
    "pending", "starting", "ready", "unresponsive", "stopping", "stopped", "failed", "backoff"
]


@dataclass
class UnitState:
    """The state of one unit.

    Attributes:
        state: see `supervisor.lifecycle`.
        phase: what the unit does while it starts, or what is wrong with it; empty while it is ready.
        identity: its first process; None before the first start.
        started_at, ready_at: in seconds since the epoch; 0 if that has not happened.
        restarts: number of restarts.
        exit: how it ended (`exit 1`, `SIGKILL`), or empty.
        error: its last log lines if it failed, or empty.
        standby: `importing` or `ready`, if a process waits to be its next one.
        patches: names of the patches that the plan switches on in it (`dynamoctl.patches`).
        service: `joining`: it does not count yet; `leaving`: it is being removed; `drained`: the user keeps
            requests away from it; empty: it serves as its state says.
    """

    name: str
    role: str
    state: UnitStateName = "pending"
    phase: str = ""
    identity: Identity | None = None
    gpus: list[int | str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    started_at: float = 0.0
    ready_at: float = 0.0
    restarts: int = 0
    exit: str = ""
    error: str = ""
    patches: list[str] = field(default_factory=list)
    standby: str = ""
    service: Literal["", "joining", "leaving", "drained"] = ""

    @property
    def counts(self) -> bool:
        """Whether the deployment needs it to be ready."""
        return self.service not in ("joining", "leaving")


@dataclass
class ChangeState:
    """A change that is under way: its number, what was asked for, what is being done, since when (epoch)."""

    revision: int
    what: str
    step: str
    began_at: float


@dataclass
class DeploymentState:
    """The state of a deployment.

    Attributes:
        state: `starting`, `ready`, `degraded` (a unit is being restarted, LMCache's remote store or etcd does
            not answer, or workers have different copies of the model), `stopping`, `stopped`, `failed`.
        start_id: id of this start; the mark of each of its processes begins with it.
        supervisor: the supervisor's process.
        created_at, ready_at: in seconds since the epoch; `ready_at` is 0 if it was never ready.
        error: why it failed: code, message, hint; or None.
        warnings: problems that do not stop the deployment.
        lost_etcd: why etcd cannot be used now; empty if it can be used, or is not needed.
        lost_stores: LMCache's remote stores that cannot be used now, with the reason.
        mismatched_models: models of which workers have registered different copies now, with the differences.
        files: files that its processes made outside its folder: shared memory, sockets.
        file_identities: path -> identity of these files, because other programs may reuse their names. States
            of older dynamoctl versions have none.
        revision: number of the plan that runs.
        change: the change that is under way; None if there is none.
    """

    name: str
    mode: str
    model: str
    endpoint: str
    start_id: str
    state: str = "starting"
    supervisor: Identity | None = None
    created_at: float = 0.0
    ready_at: float = 0.0
    units: list[UnitState] = field(default_factory=list)
    error: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    lost_stores: list[str] = field(default_factory=list)
    lost_etcd: str = ""
    mismatched_models: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    file_identities: dict[str, FileIdentity] = field(default_factory=dict)
    revision: int = 0
    change: ChangeState | None = None
    version: int = VERSION

    @property
    def supervisor_lives(self) -> bool:
        """Whether the supervisor that wrote this state still runs."""
        return self.supervisor is not None and is_running(self.supervisor)

    @property
    def problems(self) -> list[str]:
        """Why a deployment whose units are all ready is `degraded`; each is a warning of `status`."""
        return [*self.lost_stores, *filter(None, (self.lost_etcd,)), *self.mismatched_models]

    @property
    def recorded_files(self) -> Files:
        """`files` with their identities, as far as they are known."""
        return {path: self.file_identities.get(path) for path in self.files}

    def record_files(self, files: Files) -> None:
        """Set `files` and `file_identities`."""
        self.files = sorted(files)
        identities = {path: identity for path, identity in sorted(files.items()) if identity is not None}
        self.file_identities = identities


class DeploymentDir:
    """A deployment's folder. It is made when something is written to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = home() / "deployments" / name

    @property
    def plan_file(self) -> Path:
        """The file with the spec and the plan."""
        return self.path / "plan.json"

    @property
    def state_file(self) -> Path:
        """The file with the current state."""
        return self.path / "state.json"

    @property
    def store(self) -> Path:
        """The directory of Dynamo's file discovery."""
        return self.path / "store"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket."""
        return self.path / "control.sock"

    @property
    def targets_file(self) -> Path:
        """The file with the deployment's Prometheus targets (`file_sd`), in one folder with those of others:
        only the last path component of an entry in Prometheus's `files` may be a pattern.
        """
        return self.path.parent.parent / TARGETS / f"{self.name}.json"

    def log(self, unit: str) -> Path:
        """The log of a unit, or of the supervisor (`supervisor`)."""
        return self.path / "logs" / f"{unit}.log"

    def work(self, unit: str) -> Path:
        """A unit's working folder."""
        return self.path / "run" / unit

    def read_plan(self) -> dict[str, Any] | None:
        """Read `plan.json`; None if it does not exist.

        Raises:
            DynamoctlError: the file is damaged or cannot be read.
        """
        return _read_json(self.plan_file)

    def write_plan(self, body: dict[str, Any]) -> None:
        """Write `plan.json`; raises PreflightError if that fails."""
        self._write_json(self.plan_file, body)

    def read_state(self) -> DeploymentState | None:
        """Read `state.json`; None if it does not exist.

        Raises:
            DynamoctlError: the file is damaged, has another version or cannot be read.
        """
        body = _read_json(self.state_file)
        if body is None:
            return None
        if body.get("version") != VERSION:
            raise DynamoctlError(
                f"{self.state_file} has version {body.get('version')}; this dynamoctl reads {VERSION}",
                f"take it down (dynamoctl down -n {self.name}), then start it again",
            )
        try:
            return _state(body)
        except (AttributeError, KeyError, TypeError) as error:
            raise DynamoctlError(
                f"{self.state_file} is damaged ({error})", f"`dynamoctl down -n {self.name}` cleans up"
            ) from None

    def write_state(self, state: DeploymentState) -> None:
        """Write `state.json`; raises PreflightError if that fails."""
        self._write_json(self.state_file, asdict(state))

    def write_targets(self, groups: list[dict[str, Any]]) -> None:
        """Write the Prometheus targets. The folder gets mode 0700; the user may open it to Prometheus.

        Raises:
            OSError: they cannot be written.
        """
        self.targets_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self.targets_file, json.dumps(groups, indent=1))

    def remove_targets(self) -> None:
        """Remove the Prometheus targets."""
        with suppress(OSError):
            self.targets_file.unlink()

    def is_whole(self) -> bool:
        """Whether the files of plan and state exist, whatever they hold."""
        return self.plan_file.exists() and self.state_file.exists()

    def exists(self) -> bool:
        """Whether the folder exists.

        Raises:
            DynamoctlError: this user may not read it.
        """
        return _is_there(self.path)

    def make(self) -> None:
        """Make the folder with mode 0700, because it holds logs, the plan's environment and the socket.

        Raises:
            OSError: it cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o700)

    def _write_json(self, path: Path, body: dict[str, Any]) -> None:
        try:
            self.make()
            write_whole(path, json.dumps(body, indent=1), 0o600)  # a plan may hold secrets
        except OSError as error:
            raise PreflightError(
                f"cannot write {path}: {error.strerror}",
                "free some space, or set DYNAMOCTL_HOME to a writable folder",
            ) from None

    @contextmanager
    def lock(self, patience_s: float = 60.0) -> Iterator[None]:
        """Hold the deployment's lock against other commands that change it.

        Raises:
            DynamoctlError: another command holds it for longer than `patience_s` seconds.
        """
        busy = f"another dynamoctl command is changing '{self.name}'"
        try:
            self.make()
        except OSError as error:
            raise cannot_write_in(self.path, error) from None
        with locked(self.path / "lock", patience_s, busy):
            yield


@contextmanager
def starts_in_turn(patience_s: float = 60.0) -> Iterator[None]:
    """Hold the lock that serialises starts, from reading the other plans' ports until the plan is written.

    Raises:
        DynamoctlError: another command holds it for longer than `patience_s` seconds.
    """
    with locked(home() / "lock", patience_s, "another deployment is being started"):
        yield


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file atomically: a reader sees the old or the new content, never a part.

    Args:
        mode: permissions of the new file; the umask applies.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch(mode)
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def home() -> Path:
    """The folder for dynamoctl's state: $DYNAMOCTL_HOME, or the user's state folder."""
    own = os.environ.get("DYNAMOCTL_HOME")
    if own:
        return path_of(own).absolute()
    import platformdirs

    return platformdirs.user_state_path("dynamoctl")


def targets_folder() -> Path:
    """The folder with the Prometheus targets: a file for each deployment that is up."""
    return home() / TARGETS


def deployments() -> list[str]:
    """The names of all deployments that have a folder, sorted.

    Raises:
        DynamoctlError: this user may not read them.
    """
    folder = home() / "deployments"
    return sorted(path.parent.name for path in folder.glob("*/state.json")) if _is_there(folder) else []


def _is_there(folder: Path) -> bool:
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DynamoctlError(f"cannot read {folder}: {error.strerror}", _OTHERS) from None
    return True


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DynamoctlError(f"cannot read {path}: {error.strerror}", _OTHERS) from None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise DynamoctlError(
            f"{path} is damaged: it is not JSON", f"`dynamoctl down -n {path.parent.name}` cleans up"
        )
    return body


def _identity(body: dict[str, Any] | None) -> Identity | None:
    return Identity(**body) if body else None


def _state(body: dict[str, Any]) -> DeploymentState:
    units = [UnitState(**{**unit, "identity": _identity(unit["identity"])}) for unit in body["units"]]
    files = {path: FileIdentity(**identity) for path, identity in body.get("file_identities", {}).items()}
    change = ChangeState(**body["change"]) if body.get("change") else None
    own = {"units": units, "supervisor": _identity(body["supervisor"]), "change": change}
    return DeploymentState(**{**body, **own, "file_identities": files})
