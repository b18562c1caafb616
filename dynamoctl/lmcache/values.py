"""Values of YAML and TOML as the text that LMCache reads from a variable.

dynamoctl hands settings to LMCache as variables. A value that no variable can hold so that LMCache reads the
same, such as a date in `extra_config`, is an error that says where it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

from dynamoctl.errors import SpecError
from dynamoctl.lmcache.environment import Origin, quote
from dynamoctl.lmcache.tables import KEYS

# Values in a table, all levels together. YAML's aliases can make a small file hold billions.
_MOST_VALUES = 10_000
_DEEPEST = 100
# Settings that are several folders, although LMCache calls them text.
_FOLDERS = frozenset({"local_disk", "gds_path"})
_NAMES = (
    (bool, "a boolean"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (datetime, "a time"),
    (date, "a date"),
    (time, "a time"),
    ((bytes, bytearray), "binary data"),
    ((set, frozenset), "a set"),
    (Mapping, "a table"),
    ((list, tuple), "a list"),
)


def name_of(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing (null)"
    return next((words for kind, words in _NAMES if isinstance(value, kind)), type(value).__name__)


def as_text(key: str, value: Any, origin: Origin) -> str:
    """A setting's value in the form that LMCache reads from a variable; `environment.check` comes after it.

    Raises:
        SpecError: no variable can hold the value so that LMCache reads the same.
    """
    kind = KEYS[key]
    if kind == "json":
        if isinstance(value, Mapping):
            return json_text(value, origin.name, origin.place)
        return _scalar(value, "str", origin)
    if isinstance(value, (list, tuple)):
        return _listed(key, value, origin)
    return _scalar(value, kind, origin)


def _listed(key: str, value: list[Any] | tuple[Any, ...], origin: Origin) -> str:
    kind = KEYS[key]
    if kind == "list of one str" and len(value) > 1:
        raise _wrong(
            origin,
            "LMCache reads one entry from a variable, and that is how dynamoctl hands it over",
            "put what the entries name into one folder",
        )
    if not kind.startswith("list") and key not in _FOLDERS:
        raise _wrong(origin, "it takes one value, not a list", "give one value")
    items = [_scalar(item, kind.removeprefix("list of "), origin) for item in value]
    if len(items) > 1 and any("," in item for item in items):
        raise _wrong(origin, "LMCache would split an entry at its comma", "name it without a comma")
    return ",".join(items)


def _scalar(value: object, kind: str, origin: Origin) -> str:
    """One value. LMCache converts a date to text, where it takes text."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, float) and kind == "int" and value.is_integer():
        value = int(value)
    if isinstance(value, (bool, int, float)) or (isinstance(value, (date, time)) and kind.endswith("str")):
        try:
            return str(value)
        except ValueError:  # more digits than Python writes
            raise _wrong(origin, "it is too large a number", "give a smaller one") from None
    raise _wrong(origin, f"it takes one value, not {name_of(value)}", "give text, a number or a boolean")


def json_text(value: Any, name: str, place: str = "") -> str:
    """A table as JSON.

    Args:
        name: the table's name, for messages.
        place: the file and line, for messages.

    Raises:
        SpecError: it holds what JSON cannot say; the message has the path to it.
    """
    for count, (path, inner, depth) in enumerate(_walk(value, name, 0)):
        origin = Origin(path, place=place)
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise _wrong(Origin(name, place=place), "it holds too many values, or itself", "make it smaller")
        if isinstance(inner, Mapping):
            for key in inner:
                if not isinstance(key, str):
                    raise _wrong(origin, f"the name of an entry is {name_of(key)}, not text", "quote it")
        elif not isinstance(inner, (str, bool, int, float, list, tuple, type(None))):
            raise _wrong(
                origin, f"it is handed over as JSON, which cannot hold {name_of(inner)}", "quote it as text"
            )
    try:
        return json.dumps(value)
    except ValueError:  # an integer of more digits than Python writes
        raise _wrong(Origin(name, place=place), "it holds too large a number", "quote it as text") from None


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Every value in a table with the path to it, from the outside in."""
    yield path, value, depth
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, f"{path}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _walk(inner, f"{path}.{number}", depth + 1)


def _wrong(origin: Origin, what: str, hint: str) -> SpecError:
    return SpecError(f"{origin.name}{origin.place}: {what}", hint)
