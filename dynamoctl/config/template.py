"""The text of a `dynamoctl.toml`: every key with what it means, and those that are not set commented out.

`# words` are for people; `#key = value` is a key with its default or an example. What is said of a key is
the schema's.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from dynamoctl.config import json_schema
from dynamoctl.config.lmcache_spec import LMCacheSpec

_WIDTH = 100
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_CACHE = "lmcache"


def render(head: str, values: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The file.

    Args:
        head: what its first lines say, without comment marks.
        values: the keys that are set; those of `[lmcache]` begin with `lmcache.`.
        here: for keys that are not set and have no fixed default, what is taken on this machine.
    """
    keys = dict(json_schema.schema()["properties"])
    cache = keys.pop(_CACHE)
    own = {f"{_CACHE}.{name}": cache["properties"][name] for name in LMCacheSpec.model_fields}
    # A file's name in the head may be no text, or have what no comment may hold.
    lines = [
        f"# {''.join(c if c.isprintable() else '?' for c in line)}".rstrip() for line in head.splitlines()
    ]
    lines += ["", *_keys(keys, values, here)]
    lines += [*_comment(cache["description"]), f"[{_CACHE}]", "", *_keys(own, values, here)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _keys(
    keys: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], here: Mapping[str, Any]
) -> list[str]:
    lines: list[str] = []
    for path, said in keys.items():
        key = path.rpartition(".")[2]
        words = str(said["description"])
        if "enum" in said:
            words += f" One of: {', '.join(said['enum'])}."
        lines += _comment(words)
        if path in values:
            lines.append(f"{key} = {toml(values[path])}")
        elif path in here:
            lines.append(f"#{key} = {toml(here[path])}  # chosen on this host")
        elif "examples" in said:
            lines.append(f"#{key} = {toml(said['examples'][0])}  # an example")
        else:
            lines.append(f"#{key} = {toml(said['default'])}")
        lines.append("")
    return lines


def _comment(words: str) -> Iterable[str]:
    return textwrap.wrap(
        words,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(name)} = {toml(one)}" for name, one in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml(one) for one in value)}]"
    return _quoted(str(value))


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
