"""The table of patches in docs/versions.md, out of `dynamoctl.patches.ALL`."""

from __future__ import annotations

from dynamoctl import patches
from dynamoctl.patches.base import Patch

_HEAD = ("patch", "variable", "tested with", "without it", "upstream")


def table() -> str:
    """One row for each patch, in the order in which they are applied."""
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, patches.ALL)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(patch: Patch) -> tuple[str, ...]:
    values = " or ".join(f"`{patch.variable}={value}`" for value in patch.values)
    versions = " or ".join(f"{patch.package} {version}" for version in patch.versions)
    if patch.only_with:
        versions += f", {' '.join(patch.only_with)}"
    without = patch.without + (" (so it is required)" if patch.is_required else "")
    return f"`{patch.name}`", values or f"`{patch.variable}`", versions, without, _source(patch.upstream)


def _source(upstream: str) -> str:
    """A link to an issue, named as on GitHub; a place in a package as it is."""
    if not upstream.startswith("https://"):
        return f"`{upstream}`"
    _, _, _, owner, name, _, number = upstream.split("/")
    return f"[{owner}/{name}#{number}]({upstream})"
