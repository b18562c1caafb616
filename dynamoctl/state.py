"""One folder per deployment: its plan, its units' identities, its logs.

    HOME/deployments/NAME/
        plan.json       what was asked for and what came of it; written once a start
        state.json      what is so now; written by the supervisor alone, atomically
        logs/UNIT.log   what each unit printed; supervisor.log beside them
        run/UNIT/       the unit's working folder, empty at its start
        store/          Dynamo's file discovery, fresh at every start
        control.sock    where the supervisor answers `status`
        lock            held by whoever changes the deployment
    HOME/lock           held while a start looks at what the others have planned
    HOME/prometheus/
        NAME.json       what Prometheus scrapes of it; only while it is up

HOME is $DYNAMOCTL_HOME or the user's state folder. This module is read by `status`, so it imports
nothing slow.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.host.files import FileIdentity, Files
from dynamoctl.host.processes import Identity, is_running

VERSION = 1
# The folder, in HOME, of what Prometheus reads.
TARGETS = "prometheus"

_OTHERS = "a deployment is its owner's alone: become that user, or set DYNAMOCTL_HOME"

# `supervisor.lifecycle` says what may follow what.
UnitStateName = Literal[
    "pending", "starting", "ready", "unresponsive", "stopping", "stopped", "failed", "backoff"
]


@dataclass
class UnitState:
    """What the supervisor knows of one unit.

    Attributes:
        state: see `supervisor.lifecycle`.
        phase: what it is doing while it starts, or what is wrong with it, in words; empty while it is ready.
        started_at, ready_at: seconds since the epoch; 0 where that has not happened.
        exit: how it ended (`exit 1`, `SIGKILL`), or empty.
        error: why it failed, with its last log lines, or empty.
        patches: names of the patches that the plan switches on in it (`dynamoctl.patches`).
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


@dataclass
class DeploymentState:
    """What the supervisor knows of the whole.

    Attributes:
        state: `starting`, `ready`, `degraded` (a unit is down and on its way back, or a store of
            LMCache's does not answer), `stopping`, `stopped`, `failed`.
        start_id: this start; the mark that its processes carry begins with it.
        error: why it failed: code, message, hint; or None.
        warnings: what does not stop it but should be known.
        lost_etcd: that etcd does not answer now, and why; empty where it does, or none is used.
        lost_stores: which of LMCache's stores do not answer now, and why.
        files: what its processes have made outside its folder: shared memory, sockets.
        file_identities: which files these are: others may have their names by now. A state that was written
            before dynamoctl looked has none.
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
    files: list[str] = field(default_factory=list)
    file_identities: dict[str, FileIdentity] = field(default_factory=dict)
    version: int = VERSION

    @property
    def supervisor_lives(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return self.supervisor is not None and is_running(self.supervisor)

    @property
    def recorded_files(self) -> Files:
        """`files`, and which they are as far as that is known."""
        return {path: self.file_identities.get(path) for path in self.files}

    def record_files(self, files: Files) -> None:
        """Set `files`, and which they are."""
        self.files = sorted(files)
        self.file_identities = {path: which for path, which in sorted(files.items()) if which is not None}


class Folder:
    """A deployment's folder. Nothing is made until something is written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = home() / "deployments" / name

    @property
    def plan_file(self) -> Path:
        """What was asked for."""
        return self.path / "plan.json"

    @property
    def state_file(self) -> Path:
        """What is so now."""
        return self.path / "state.json"

    @property
    def store(self) -> Path:
        """Dynamo's file discovery."""
        return self.path / "store"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket."""
        return self.path / "control.sock"

    @property
    def targets_file(self) -> Path:
        """What Prometheus scrapes of it (`file_sd`).

        All deployments' are in one folder: in Prometheus's `files` only the last part may be a pattern.
        """
        return self.path.parent.parent / TARGETS / f"{self.name}.json"

    def log(self, unit: str) -> Path:
        """A unit's log; `supervisor` has one too."""
        return self.path / "logs" / f"{unit}.log"

    def work(self, unit: str) -> Path:
        """A unit's working folder."""
        return self.path / "run" / unit

    def read_plan(self) -> dict[str, Any] | None:
        """`plan.json`; None where there is none."""
        return _read_json(self.plan_file)

    def write_plan(self, body: dict[str, Any]) -> None:
        """Write `plan.json`."""
        self._write_json(self.plan_file, body)

    def read_state(self) -> DeploymentState | None:
        """`state.json`; None where there is none.

        Raises:
            DynamoctlError: the file is damaged or of another version.
        """
        body = _read_json(self.state_file)
        if body is None:
            return None
        if body.get("version") != VERSION:
            raise DynamoctlError(
                f"{self.state_file} is of version {body.get('version')}; this dynamoctl reads {VERSION}",
                f"take it down (dynamoctl down -n {self.name}), then start it again",
            )
        try:
            return _state(body)
        except (AttributeError, KeyError, TypeError) as error:
            raise DynamoctlError(
                f"{self.state_file} is damaged ({error})", f"`dynamoctl down -n {self.name}` cleans up"
            ) from None

    def write_state(self, state: DeploymentState) -> None:
        """Write `state.json`."""
        self._write_json(self.state_file, asdict(state))

    def write_targets(self, groups: list[dict[str, Any]]) -> None:
        """Write what Prometheus scrapes. The folder is made the user's alone, who may open it to Prometheus.

        Raises:
            OSError: it cannot be written.
        """
        self.targets_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self.targets_file, json.dumps(groups, indent=1))

    def remove_targets(self) -> None:
        """Tell Prometheus that there is nothing to scrape any more."""
        with suppress(OSError):
            self.targets_file.unlink()

    def is_whole(self) -> bool:
        """Whether plan and state are there; not whether they can be read."""
        return self.plan_file.exists() and self.state_file.exists()

    def exists(self) -> bool:
        """Whether there is such a folder.

        Raises:
            DynamoctlError: it may not be looked into: it is another user's.
        """
        return _is_there(self.path)

    def make(self) -> None:
        """The folder itself, the user's alone: it holds logs, the plan's environment and the socket.

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
                "free some space, or set DYNAMOCTL_HOME to a folder that can be written",
            ) from None

    @contextmanager
    def lock(self, patience_s: float = 60.0) -> Iterator[None]:
        """Hold the deployment against other commands that would change it.

        Raises:
            DynamoctlError: another command holds it for longer than `patience_s` seconds.
        """
        busy = f"another dynamoctl command is at work on '{self.name}'"
        try:
            self.make()
        except OSError as error:
            raise _cannot_write_in(self.path, error) from None
        with _locked(self.path / "lock", patience_s, busy):
            yield


@contextmanager
def starts_in_turn(patience_s: float = 60.0) -> Iterator[None]:
    """Hold all of the user's deployments against another start, from the look at what they have planned until
    one's own plan can be seen.

    Raises:
        DynamoctlError: another command holds it for longer than `patience_s` seconds.
    """
    with _locked(home() / "lock", patience_s, "another deployment is being started"):
        yield


@contextmanager
def _locked(path: Path, patience_s: float, busy: str) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot_write_in(path.parent, error) from None
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise DynamoctlError(busy, "wait for it to end, then try again") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _cannot_write_in(folder: Path, error: OSError) -> PreflightError:
    return PreflightError(
        f"cannot write in {folder}: {error.strerror}",
        "mend its permissions, or set DYNAMOCTL_HOME to a folder that can be written",
    )


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file whole or not at all: a reader never sees half of it.

    Args:
        mode: of the new file, less the umask.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch(mode)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def home() -> Path:
    """Where dynamoctl keeps its state: $DYNAMOCTL_HOME, or the user's state folder."""
    own = os.environ.get("DYNAMOCTL_HOME")
    if own:
        return Path(own).expanduser().absolute()
    import platformdirs

    return platformdirs.user_state_path("dynamoctl")


def targets_folder() -> Path:
    """Where Prometheus finds what to scrape: a file for each deployment that is up."""
    return home() / TARGETS


def deployments() -> list[str]:
    """The names of all deployments that have a folder, sorted.

    Raises:
        DynamoctlError: they may not be looked into: they are another user's.
    """
    folder = home() / "deployments"
    return sorted(path.parent.name for path in folder.glob("*/state.json")) if _is_there(folder) else []


def not_running(name: str) -> str:
    """That it is not, and which there are where nobody ever started one of this name."""
    known = deployments()
    besides = f" (known here: {', '.join(known)})" if known and name not in known else ""
    return f"'{name}' is not running{besides}"


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
    files = {path: FileIdentity(**which) for path, which in body.get("file_identities", {}).items()}
    return DeploymentState(
        **{**body, "units": units, "supervisor": _identity(body["supervisor"]), "file_identities": files}
    )
