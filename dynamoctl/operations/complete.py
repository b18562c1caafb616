"""What a half-typed word on the command line can become. Quick: a shell waits for it."""

from __future__ import annotations

import os
from pathlib import Path

from dynamoctl import policies
from dynamoctl.facts import usable
from dynamoctl.host import facts, gpus, models

# A word and, where there is something to say, what it is.
Words = list[tuple[str, str]]


def gpu_lists(typed: str) -> Words:
    """What is typed with one more GPU, as `0,` and `0,1`, and its name; one again where all are named."""
    names = [
        (str(index), gpu.name if gpu else "MIG")
        for index, gpu in enumerate(usable(gpus.list_gpus(), facts.visible_gpus()))
    ]
    before, comma, _ = typed.rpartition(",")
    named = before.split(",")
    left = [one for one in names if one[0] not in named] or names
    return [(f"{before}{comma}{index}", name) for index, name in left]


def model_names() -> Words:
    """The models that are here without a download; folders are for the shell itself."""
    return [
        (name, "built in" if name == policies.BUILTIN_MODEL else "in the hub's local cache")
        for name in models.here()
    ]


def toml_files(typed: str) -> list[str]:
    """The `*.toml` files that begin so, and then the folders too; none of both where there is no file.

    With none, the shell goes on with files and folders by itself, which it does better.
    """
    folder, begin = os.path.split(typed)
    found, folders = [], []
    for entry in sorted(Path(folder or ".").expanduser().iterdir()):
        if not entry.name.startswith(begin) or (entry.name.startswith(".") and not begin):
            continue
        word = os.path.join(folder, entry.name)
        if entry.is_dir():
            folders.append(f"{word}/")
        elif entry.suffix == ".toml":
            found.append(word)
    return [*found, *folders] if found else []
