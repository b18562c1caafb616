"""Shell completion of values. It must be fast, because the shell waits for it."""

from __future__ import annotations

import os

from dynamoctl import policies
from dynamoctl.facts import index_range, usable_gpus
from dynamoctl.host import facts, gpus, models
from dynamoctl.humanize import path_of

# (word, its description, which may be empty).
Words = list[tuple[str, str]]


def gpu_lists(typed: str) -> Words:
    """The typed list of GPUs with one more GPU, and that GPU's name.

    It offers GPUs that are not in the list yet, or all of them if all are.
    """
    gpu_names: Words = []
    for index, gpu in enumerate(usable_gpus(gpus.list_gpus(), facts.visible_gpus())):
        if gpu is not None and len(gpu.instances or ()) > 1:
            gpu_names += [(instance.uuid, f"MIG, on GPU {gpu.index}") for instance in gpu.instances or ()]
        else:
            gpu_names.append((str(index), gpu.name if gpu else "MIG"))
    before, comma, _ = typed.rpartition(",")
    chosen = {index for word in before.split(",") for index in index_range(word) or (word,)}
    left = [(index, name) for index, name in gpu_names if index not in chosen] or gpu_names
    return [(f"{before}{comma}{index}", name) for index, name in left]


def model_names() -> Words:
    """The models that need no download. The shell completes folders by itself."""
    return [
        (name, "built in" if name == policies.BUILTIN_MODEL else "in the hub's local cache")
        for name in models.here()
    ]


def toml_files(typed: str) -> list[str]:
    """The `*.toml` files and the folders that begin with the typed path; empty if no file does.

    If the list is empty, the shell completes files and folders by itself, which it does better.
    """
    folder, begin = os.path.split(typed)
    files, folders = [], []
    for entry in sorted(path_of(folder or ".").iterdir()):
        if not entry.name.startswith(begin) or (entry.name.startswith(".") and not begin):
            continue
        word = os.path.join(folder, entry.name)
        if entry.is_dir():
            folders.append(f"{word}/")
        elif entry.suffix == ".toml":
            files.append(word)
    return [*files, *folders] if files else []
