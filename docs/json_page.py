"""docs/json.md and docs/schemas/: what `--json` prints, from the dataclasses that it is printed from."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamoctl.answers import (
    apply,
    bench,
    cache,
    chat,
    doctor,
    down,
    drain,
    export,
    history,
    init,
    logs,
    restart,
    scale,
    status,
    up,
    watch,
)
from dynamoctl.answers.envelope import Answer, Error
from dynamoctl.humanize import attributes
from dynamoctl.planner import plan
from page_parts import DOCS, NOTE, table
from pydantic import TypeAdapter

PAGE = DOCS / "json.md"
SCHEMAS = DOCS / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SAYS_ERROR_TOO = (doctor.DoctorAnswer, bench.BenchAnswer, bench.CompareAnswer, bench.TuneAnswer)

# Keys that an answer has only if they are asked for.
OPTIONAL = ((plan.Unit, "why"),)
# What the plan's own docstrings leave to its readers.
PLAN_WORDS = {
    "DeploymentPlan": {
        "name": "The deployment.",
        "mode": "`agg`: one worker for prefill and decode; `disagg`: workers of their own.",
        "device": "Where the workers run.",
        "engine": "What the workers are.",
        "units": "The processes, in the order of their start.",
        "endpoint": "The base URL for a client on this host; empty if the frontend is on another host.",
    },
    "Unit": {
        "role": "What it does.",
        "argv": "Its command line.",
        "gate": "What makes it ready.",
    },
    "Tier": {"kind": "What keeps the KV blocks."},
    "Setting": {
        "name": "The setting.",
        "value": "Its value.",
        "source": "What set it: `default`, a flag, a file, ...",
    },
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """The answers that have one schema name.

    Attributes:
        command: the command that prints them.
        forms: the dataclasses, the usual one first.
        words: what the tables do not say.
    """

    command: str
    schema: str
    forms: tuple[type, ...]
    words: str = ""

    @property
    def file(self) -> str:
        """The name of its JSON Schema."""
        return f"{self.schema.split('/')[1]}.json"


def entry(command: str, *forms: type[Answer], words: str = "") -> Entry:
    return Entry(command, forms[0].schema, forms, words)


ALL = "With `--all`: `deployments`, a list of these."
ENTRIES = (
    Entry("up --dry-run --json", plan.SCHEMA, (plan.DeploymentPlan,)),
    entry("up --json", up.UpAnswer),
    entry("init --json", init.InitAnswer),
    entry("doctor --json", doctor.DoctorAnswer),
    entry(
        "status --json",
        status.StatusAnswer,
        status.StatusAllAnswer,
        watch.WatchAnswer,
        watch.WatchAllAnswer,
        words=f"{ALL} With `--watch`: one object per line and look (JSON Lines), with `rates` too; Ctrl-C"
        " ends it with exit code 0.",
    ),
    entry("chat --json", chat.ChatAnswer),
    entry("logs --json", logs.LogsAnswer),
    entry("scale --json", scale.ScaleAnswer),
    entry("restart --json", restart.RestartAnswer),
    entry("apply --json", apply.ApplyAnswer),
    entry("drain --json", drain.DrainAnswer),
    entry("undrain --json", drain.UndrainAnswer),
    entry("history --json", history.HistoryAnswer),
    entry("down --json", down.DownAnswer, down.DownAllAnswer, words=ALL),
    entry("cache check --json", cache.CacheCheckAnswer),
    entry("cache clear --json", cache.CacheClearAnswer),
    entry(
        "bench --json",
        bench.BenchAnswer,
        words="An error before the first request of any `bench` command has this schema name too.",
    ),
    entry("bench compare --json", bench.CompareAnswer),
    entry("bench tune --json", bench.TuneAnswer),
    entry("export --json", export.ExportAnswer),
)

PREFACE = f"""\
{NOTE}

# JSON

With `--json` a command prints one object to stdout, even if it fails:

```json
{{"schema": "dynamoctl/up/v1", "ok": true, "name": "default"}}
{{"schema": "dynamoctl/up/v1", "ok": false, "error": {{"code": 3, "message": "...", "hint": "..."}}}}
```

`schema` names the shape of the object, and `ok` says whether the command succeeded. The other keys are the
command's own. Keys are added to these objects, but none is removed or given another meaning.

Each schema name has a JSON Schema (draft 2020-12), which allows keys that it does not name.
[error.json](schemas/error.json) describes the error of any command.

`cache check` and `cache clear` have a schema name each. Until the release of 0.1.0 both had
`dynamoctl/cache/v1`.

## Errors
"""


def page() -> str:
    """The whole page."""
    parts = [PREFACE, _fields(Error)]
    for one in ENTRIES:
        main = one.forms[0]
        parts += [
            f"## `{one.command}`\n",
            f"Schema `{one.schema}`: [{one.file}](schemas/{one.file}). {_summary(main)}"
            + (f" {one.words}" if one.words else "")
            + "\n",
            *_tables(main),
        ]
        for form in one.forms[1:]:
            if issubclass(form, main):
                parts += ["With `--watch`:\n", *_tables(form)]
    return "\n".join(parts)


def schemas() -> dict[Path, str]:
    """File -> JSON Schema, of each schema name and of an error alone."""
    texts = {SCHEMAS / one.file: schema(one) for one in ENTRIES}
    texts[SCHEMAS / "error.json"] = {
        "$schema": DIALECT,
        "title": "error",
        "description": "The answer of a command that failed.",
        "type": "object",
        "properties": {
            "schema": {"type": "string", "pattern": "^dynamoctl/[^/]+/v1$"},
            **_FAILURE["properties"],
        },
        "required": ["schema", *_FAILURE["required"]],
        "$defs": _definitions([Error]),
    }
    return {path: json.dumps(text, indent=2) + "\n" for path, text in texts.items()}


# ---- tables --------------------------------------------------------------------------------------


def _tables(kind: type) -> list[str]:
    """A dataclass's own fields, and those of the dataclasses in them, each with the path of its key."""
    parts, todo, done = [_fields(kind)], _inner(kind, ""), {kind}
    while todo:
        path, inner = todo.pop(0)
        if inner not in done:
            done.add(inner)
            parts += [f"`{path}`: {_summary(inner)}\n", _fields(inner)]
            todo += _inner(inner, path + ".")
    return parts


def _inner(kind: type, before: str) -> list[tuple[str, type]]:
    """The dataclasses in its own fields that are described nowhere else, each with its path."""
    hints = typing.get_type_hints(kind)
    return [
        (f"{before}{name}{'[]' if is_list else ''}", inner)
        for name in _own(kind)
        for inner, is_list in _dataclasses_in(hints[name])
        if inner is not Error and not issubclass(inner, Answer)
    ]


def _dataclasses_in(annotation: Any, is_list: bool = False) -> list[tuple[type, bool]]:
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return [(annotation, is_list)]
    is_list = is_list or typing.get_origin(annotation) in (tuple, list)
    return [found for one in typing.get_args(annotation) for found in _dataclasses_in(one, is_list)]


def _own(kind: type) -> list[str]:
    """The fields that a dataclass adds to, or says anew of, the one that it derives from."""
    return [one.name for one in dataclasses.fields(kind) if one.name in kind.__annotations__]


def _fields(kind: type) -> str:
    hints, said = typing.get_type_hints(kind), _meanings(kind)
    rows = [(f"`{name}`", json_type(hints[name]), said[name]) for name in _own(kind)]
    if kind is plan.DeploymentPlan:
        rows.append(("`endpoint`", "string", said["endpoint"]))
    return table(("key", "type", "meaning"), rows)


def _meanings(kind: type) -> dict[str, str]:
    """Field -> what it means; a field that nobody describes is an error."""
    said = dict(PLAN_WORDS.get(kind.__name__, {}))
    for base in reversed(kind.__mro__):
        said |= attributes(base)
    for one in dataclasses.fields(kind):
        if one.name not in said:
            raise SystemExit(f"docs/generate.py: nothing says what {kind.__name__}.{one.name} is")
    return {name: _in_json(words) for name, words in said.items()}


def _in_json(words: str) -> str:
    return re.sub(r"\bNone\b", "null", words)


def _summary(kind: type) -> str:
    """The first paragraph of its docstring."""
    return _in_json(" ".join((kind.__doc__ or "").partition("\n\n")[0].split()))


def json_type(annotation: Any) -> str:
    """A type in JSON's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(json_type, arguments)))
    if origin is typing.Literal:
        return " or ".join(f'`"{one}"`' for one in arguments)
    if origin in (tuple, list, Sequence):
        return f"list of {_plural(arguments[0])}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(annotation):
        return "object"
    names = {str: "string", bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}
    return names[annotation]


def _plural(annotation: Any) -> str:
    text = json_type(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return text
    return re.sub(r"\b(string|integer|number|object)\b", r"\1s", text)


# ---- schemas -------------------------------------------------------------------------------------

_FAILURE: dict[str, Any] = {
    "description": "The command failed.",
    "properties": {"ok": {"const": False}, "error": {"$ref": "#/$defs/Error"}},
    "required": ["ok", "error"],
}


def schema(one: Entry) -> dict[str, Any]:
    """The JSON Schema of the answers with one schema name, envelope included."""
    return {
        "$schema": DIALECT,
        "title": one.schema,
        "description": f"What `dynamoctl {one.command}` prints.",
        "type": "object",
        "properties": {"schema": {"const": one.schema}, "ok": {"type": "boolean"}},
        "required": ["schema", "ok"],
        "anyOf": [*map(_form, one.forms), _FAILURE],
        "$defs": _definitions([*one.forms, Error]),
    }


def _form(kind: type) -> dict[str, Any]:
    """One shape of an answer. Some say an error beside their figures."""
    body = {"$ref": f"#/$defs/{kind.__name__}"}
    if kind not in SAYS_ERROR_TOO:
        return {**body, "properties": {"ok": {"const": True}}}
    return {
        **body,
        "properties": {"error": {"$ref": "#/$defs/Error"}},
        "if": {"properties": {"ok": {"const": False}}},
        "then": {"required": ["error"]},
        "else": {"not": {"required": ["error"]}},
    }


def _definitions(kinds: Sequence[type]) -> dict[str, Any]:
    """The schemas of dataclasses and of all that is in them, with what each key means."""
    inputs: Any = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in kinds]
    _, made = TypeAdapter.json_schemas(inputs)
    definitions: dict[str, Any] = made["$defs"]
    known = {kind.__name__: kind for outer in kinds for kind in _reached(outer)}
    return {name: _described(known[name], one) for name, one in sorted(definitions.items())}


def _reached(kind: type) -> set[type]:
    hints = typing.get_type_hints(kind)
    found = {inner for one in dataclasses.fields(kind) for inner, _ in _dataclasses_in(hints[one.name])}
    return {kind}.union(*map(_reached, found))


def _described(kind: type, made: dict[str, Any]) -> dict[str, Any]:
    said = _meanings(kind)
    keys: dict[str, Any] = dict(made["properties"])
    if kind is plan.DeploymentPlan:
        keys["endpoint"] = {"type": "string"}
    return {
        "description": _summary(kind),
        "type": "object",
        "properties": {name: {"description": said[name], **_bare(one)} for name, one in keys.items()},
        "required": [name for name in keys if (kind, name) not in OPTIONAL],
    }


def _bare(one: dict[str, Any]) -> dict[str, Any]:
    """A key's schema without pydantic's title, and without a default, which an answer always says."""
    return {name: value for name, value in one.items() if name not in ("title", "default")}
