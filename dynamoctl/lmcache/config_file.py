"""LMCache's own file (LMCACHE_CONFIG_FILE), a YAML mapping of its settings.

LMCache's variables override its file. dynamoctl turns the settings of the file into variables, so that a plan
is complete and all values are checked in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest, path_of
from dynamoctl.lmcache import environment, names, tables, values
from dynamoctl.lmcache.environment import Origin

if TYPE_CHECKING:
    from yaml import MappingNode, Node

# LMCache's own examples have some hundred bytes.
_MOST_BYTES = 1024**2
_HINT = "fix it: one KEY: VALUE per line"
_MAPPING = "tag:yaml.org,2002:map"
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class FileSetting:
    """One setting of the file.

    Attributes:
        variable: LMCache's variable for it.
        text: the variable's value; empty if the file leaves the setting empty, or turns a tier off.
        place: the file and the line, as in ` (in FILE, line 3)`.
    """

    variable: str
    text: str
    place: str


def read(path: str) -> list[FileSetting]:
    """The settings in LMCache's YAML file.

    Raises:
        SpecError: the file cannot be read, is not a YAML mapping, names a key twice, or has an unknown key or
            a value that LMCache would drop.
    """
    found: dict[str, FileSetting] = {}
    entries = _entries(path)
    # The other settings of LMCache's own disaggregation make no sense without this one.
    entries.sort(key=lambda entry: entry[0] != "enable_pd")
    for key, value, place in entries:
        variable, setting = _variable(key, place)
        origin = Origin(key, ": ", place)
        text = ""
        if value is not None:
            text = values.as_text(setting, value, origin)
            if variable in names.ENCODER_VARIABLES:
                text = environment.unquote(text)
            text = environment.check(variable, text, origin)
        if variable in found:
            raise SpecError(f"{key}{place}: another key sets {variable} as well", "remove one of them")
        found[variable] = FileSetting(variable, text, place)
    return list(found.values())


def _variable(key: str, place: str) -> tuple[str, str]:
    """The variable of a key of the file, and the setting whose values it takes."""
    # lmcache==0.5.6:lmcache/v1/config.py:_collect_ec_overrides_from_file: `ec: {KEY: ...}`, or `ec_KEY: ...`.
    if key.lower().startswith(("ec.", "ec_")):
        of_encoder = key[len("ec_") :].lower()
        variable = names.ENCODER_PREFIX + of_encoder.upper()
        if variable not in names.ENCODER_VARIABLES:
            hint = nearest(of_encoder, tables.KEYS)
            raise SpecError(f"LMCache's encoder cache has no setting {key}{place}", hint)
        return variable, names.ENCODER_VARIABLES[variable]
    if key not in tables.KEYS and key not in tables.DEPRECATED:
        raise names.unknown_key(key, place)
    return names.variable(key), tables.DEPRECATED.get(key, key)


def _entries(path: str) -> list[tuple[str, Any, str]]:
    """Each key of the file with its value and where it stands; `ec.KEY` for one of the table `ec`."""
    where = f"LMCACHE_CONFIG_FILE={path}"
    found: list[tuple[str, Any, str]] = []
    for key, (value, line) in _parse(_text(path, where), where).items():
        place = f" (in {path}, line {line})"
        if key.lower() == "ec" and isinstance(value, dict):
            found += [
                (f"ec.{inner if isinstance(inner, str) else values.name_of(inner)}", of_inner, place)
                for inner, of_inner in value.items()
            ]
        else:
            found.append((key, value, place))
    return found


def _text(path: str, where: str) -> str:
    try:
        with path_of(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; a home that nobody knows
        why = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{where} cannot be read: {why}", "fix the path, or unset it") from None
    if len(content) > _MOST_BYTES:
        raise SpecError(f"{where} is larger than 1 MiB", "name LMCache's file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{where} is not YAML: it is not UTF-8 text", _HINT) from None


def _parse(text: str, where: str) -> dict[str, tuple[Any, int]]:
    """The keys of a YAML mapping, as they are written, with their values and lines."""
    import yaml

    line = 0
    found: dict[str, tuple[Any, int]] = {}
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None or root.tag == _NULL:
            return {}
        if not isinstance(root, yaml.MappingNode) or root.tag != _MAPPING:
            raise SpecError(f"{where} holds no settings", _HINT)
        if twice := next(_twice(root), None):
            raise SpecError(
                f"{where}, line {_line(twice)}: {twice.value} is given twice", "remove one of them"
            )
        loader.flatten_mapping(root)
        for key, value in root.value:
            line = _line(key)
            name = key.value if isinstance(key, yaml.ScalarNode) else "that is not text"
            found[name] = loader.construct_object(value, deep=True), line
        return found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else line
        why = error.problem or error.context or "it is not a mapping"
    except (yaml.YAMLError, RecursionError) as error:
        why = getattr(error, "reason", "") or "it is nested too deeply"
    # PyYAML reads a value by its form, as in 2026-13-01, and what it then calls may fail in its own way.
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        why = "a value there is not what its form says, as in 2026-13-01; quote it"
    at = f", line {line}" if line else ""
    raise SpecError(f"{where} is not YAML{at}: {why}", _HINT)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _twice(root: MappingNode) -> Iterator[Node]:
    """The keys that one mapping has for the second time. YAML forbids it; LMCache takes the last."""
    from yaml import MappingNode, ScalarNode, SequenceNode

    waiting: list[Node] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            keys: set[tuple[str, str]] = set()
            for key, value in node.value:
                if isinstance(key, ScalarNode) and key.tag != _MERGE:
                    if (key.tag, key.value) in keys:
                        yield key
                    keys.add((key.tag, key.value))
                waiting.append(value)
        elif isinstance(node, SequenceNode):
            waiting += node.value
