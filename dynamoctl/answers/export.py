"""The answer of `export ... --json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dynamoctl.answers.envelope import Answer

Program = Literal["k8s", "shell", "systemd", "prometheus", "grafana"]
Format = Literal["manifest", "script", "units", "targets", "config", "dashboard"]


@dataclass(frozen=True)
class ExportAnswer(Answer):
    """What was exported.

    Attributes:
        program: the program that it is for.
        format: `manifest` (`k8s`), `script` (`shell`), `units` (`systemd`), `targets` or `config`
            (`prometheus`), `dashboard` (`grafana`).
        content: the text of a manifest, a script or a `prometheus.yml`; an object of file -> text (`units`);
            a list of target groups (`targets`); an object (`dashboard`).
        path: the file or folder of `--output`; None without it.
        notes: what should be known about it.
    """

    schema: ClassVar[str] = "dynamoctl/export/v1"

    program: Program
    format: Format
    content: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
    path: str | None
    notes: tuple[str, ...]
