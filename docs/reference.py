"""docs/reference.md: commands, exit codes, configuration, environment, unit states, LMCache's settings."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import typer.main
from dynamoctl import cli, errors
from dynamoctl.config import choices, json_schema, lmcache_spec, spec
from dynamoctl.lmcache import names, tables
from dynamoctl.supervisor import lifecycle
from page_parts import DOCS, NOTE, fenced, table
from pydantic import BaseModel

REFERENCE = DOCS / "reference.md"
WIDTH = 100

PREFACE = f"""\
{NOTE}

# Reference

- [Commands](#commands)
- [Exit codes](#exit-codes)
- [Configuration](#configuration)
- [Environment](#environment)
- [JSON](#json)
- [The states of a unit](#the-states-of-a-unit)
- [LMCache's settings](#lmcaches-settings)
"""

ENVIRONMENT = """\
## Environment

| variable | read for |
| --- | --- |
| `DYNAMOCTL_HOME` | where the deployments' folders are; default: `dynamoctl` in the user's state folder |
| `DYNAMOCTL_CACHE` | where the converted built-in model is; default: `dynamoctl` in the user's cache folder |
| `ENABLE_LMCACHE` | `1` or `0`: as `--lmcache` and `--no-lmcache` |
| `LMCACHE_*` | LMCache's own settings, checked: see [below](#lmcaches-settings) |
| `CUDA_VISIBLE_DEVICES` | the GPUs that may be used; indices in `--gpus` count within it |
| `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` | models of the hub |
| `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` | proxies for the hub, not for a deployment |
| `NO_COLOR` | no colour where it is set |

Flags win over the environment, which wins over the file, which wins over the defaults.
Every unit gets the environment of `up`, with what the plan adds (`env`) and without what it takes away
(`unset`): `up --dry-run --json` shows both. A relative path in a variable becomes absolute.
Checks read the environment that units get.
"""

JSON = """\
## JSON

With `--json` a command prints one object: see [every key, and a JSON Schema of each answer](json.md).
"""


def page() -> str:
    """The whole page."""
    parts = [PREFACE, commands(), exit_codes(), configuration(), ENVIRONMENT, JSON, states()]
    return "\n".join([*parts, lmcache_settings()])


# ---- commands -----------------------------------------------------------------------------------


def commands() -> str:
    """Every command's --help, as a person sees it at this width."""
    names = list(typer.main.get_command(cli.app()).commands)  # type: ignore[attr-defined]
    parts = ["## Commands\n", fenced(_help())]
    for name in names:
        parts += [f"### dynamoctl {name}\n", fenced(_help(name))]
        for inner in getattr(typer.main.get_command(cli.app()).commands[name], "commands", ()):  # type: ignore[attr-defined]
            parts += [f"#### dynamoctl {name} {inner}\n", fenced(_help(name, inner))]
    return "\n".join(parts)


def _help(*words: str) -> str:
    # Nothing of the caller's environment: colours, widths and the like would come in with it.
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "dynamoctl", *words, "--help"],
        env={**environ, "PYTHONUTF8": "1", "PYTHONPATH": str(DOCS.parent)},
        cwd=DOCS,  # no dynamoctl.toml, and not where the package is
        check=True,
        capture_output=True,
        text=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


# ---- exit codes ---------------------------------------------------------------------------------


def exit_codes() -> str:
    """The codes of dynamoctl.errors, and the three that are nobody's error."""
    rows: dict[int, list[str]] = {0: ["Done. `down` and `status` with nothing running are 0 too."]}
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass)]
    kinds = [one for one in classes if issubclass(one, errors.DynamoctlError)]
    for kind in sorted(kinds, key=lambda kind: inspect.getsourcelines(kind)[1]):
        words = "It failed while it ran." if kind is errors.DynamoctlError else _first_sentence(kind)
        rows.setdefault(kind.exit_code, []).append(words)
    rows[129] = ["Broken off by SIGHUP."]
    rows[130] = [
        "Broken off by SIGINT (Ctrl-C). What `up` had started is taken down. `status --watch` ends so with 0."
    ]
    rows[143] = ["Broken off by SIGTERM. What `up` had started is taken down."]
    return "## Exit codes\n\n" + table(
        ("code", "meaning"), ((str(code), " ".join(words)) for code, words in sorted(rows.items()))
    )


def _first_sentence(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


# ---- configuration ------------------------------------------------------------------------------


def configuration() -> str:
    """The keys of dynamoctl.toml from the models that check them."""
    intro = (
        f"## Configuration\n\nThe keys of `{choices.CONFIG_NAME}`, each with the flag of `up` that wins over"
        " it. [config.md](config.md) has an example.\n"
    )
    return "\n".join(
        [
            intro,
            _model_table(spec.DeploymentSpec, ""),
            "### Table `[lmcache]`\n",
            _model_table(lmcache_spec.LMCacheSpec, "lmcache_"),
        ]
    )


# A flag's parameter has another name than its key.
_FLAGS_OF = {"enabled": "lmcache", "nvlink_multicast": "no_multicast"}


def _model_table(model: type[BaseModel], prefix: str) -> str:
    said = json_schema.meanings(model)
    flags = _flags()
    rows = []
    for name, field in model.model_fields.items():
        flag = flags.get(prefix + name) or flags.get(prefix + name.removesuffix("_s"), "")
        if name in _FLAGS_OF:
            flag = flags[_FLAGS_OF[name]]
        elif name == "lmcache":
            flag = ""
        if not said[name]:
            raise SystemExit(f"docs/generate.py: nothing says what {model.__name__}.{name} is")
        kind = _kind(field.annotation, field.metadata)
        default = _default(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", kind, default, flag, said[name]))
    return table(("key", "type", "default", "flag", "meaning"), rows)


def _flags() -> dict[str, str]:
    """`up`'s parameters: name -> flags."""
    command = typer.main.get_command(cli.app()).commands["up"]  # type: ignore[attr-defined]
    found = {}
    for parameter in command.params:
        long = [f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts) if flag.startswith("--")]
        found[parameter.name] = ", ".join(long) or "argument"
    return found


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0], [m for a in arguments[1:] for m in getattr(a, "metadata", [a])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one, metadata) for one in arguments if one is not type(None))
    if origin is typing.Literal:
        return ", ".join(f'`"{one}"`' for one in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}s"
    if origin is dict:
        return "table" if arguments[1] is Any else f"table of {_kind(arguments[1])}s"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    names = {str: "string", bool: "true or false", int: "integer", float: "number"}
    return names[annotation] + _limits(metadata)


def _limits(metadata: Iterable[Any]) -> str:
    limits = {key: value for m in metadata for key, value in vars_of(m).items()}
    low = f"above {limits['gt']:g}" if "gt" in limits else ""
    if "ge" in limits:
        low = f"{limits['ge']:g}" if "le" in limits else f"at least {limits['ge']:g}"
    high = f"{limits['le']:g}" if "le" in limits else ""
    if low and high:
        return f", {low} to {high}" if "ge" in limits else f", {low}, at most {high}"
    return f", {low}" if low else ""


def vars_of(metadata: Any) -> dict[str, Any]:
    """The limits (`ge`, `gt`, `le`) that one of pydantic's annotations sets."""
    return {key: getattr(metadata, key) for key in ("ge", "gt", "le") if hasattr(metadata, key)}


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return f"`{list(value)}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, dict):
        return "empty"
    return f"`{value:g}`"


# ---- states -------------------------------------------------------------------------------------


def states() -> str:
    """The supervisor's table."""
    rows = ((f"`{state}`", f"`{event}`", f"`{to}`") for (state, event), to in lifecycle.TABLE.items())
    return "\n".join(
        [
            "## The states of a unit\n",
            "What is not in this table cannot happen.\n",
            table(("state", "event", "next state"), rows),
        ]
    )


# ---- LMCache ------------------------------------------------------------------------------------


def lmcache_settings() -> str:
    """The names that dynamoctl knows."""
    by_kind: dict[str, list[str]] = {}
    for key, kind in tables.KEYS.items():
        by_kind.setdefault(kind, []).append(tables.PREFIX + key.upper())
    rows = [(kind, " ".join(f"`{name}`" for name in sorted(of_kind))) for kind, of_kind in by_kind.items()]
    passed = " ".join(f"`{name}`" for name in sorted(names.PROCESS_VARIABLES))
    return (
        "\n".join(
            [
                "## LMCache's settings\n",
                "The environment variables of LMCache that `up` checks before it hands them on. LMCache"
                " itself drops a value that it cannot read and a name that it does not know, and runs on"
                " silently; here both are an error (exit code 2).\n",
                "`LMCACHE_CHUNK_SIZE` and `LMCACHE_MAX_LOCAL_CPU_SIZE` are the keys `chunk_size` and"
                " `cpu_gb` of `[lmcache]`.\n",
                table(("type", "names"), rows),
                f"Their names are checked, and their values handed on: {passed}.\n",
                f"`{names.ENCODER_PREFIX}NAME` is a setting of LMCache's encoder cache: the same names and"
                " types.\n",
                f"Deprecated, and taken as LMCache takes them: {_pairs(tables.DEPRECATED)}. LMCache ignores"
                f" these; the error names the new one: {_pairs(tables.RENAMED)}.\n",
                "Quotes around a value are taken off, as LMCache does. What Kubernetes and docker put beside"
                " a service whose name begins with `lmcache` is left alone: `LMCACHE_SERVER_PORT`, say.\n",
            ]
        ).rstrip("\n")
        + "\n"
    )


def _pairs(renamed: Mapping[str, str]) -> str:
    return ", ".join(
        f"`{tables.PREFIX}{old.upper()}` (`{tables.PREFIX}{new.upper()}`)" for old, new in renamed.items()
    )
