"""LMCache's settings from its file, dynamoctl's TOML and the environment, the later ones over the earlier.

A setting has one name in each: `max_local_disk_size` in LMCache's file, that or `disk_gb` in `[lmcache]`, and
`LMCACHE_MAX_LOCAL_DISK_SIZE`. By LMCache's names a tier can be turned off (null, empty, a size of 0), which
also turns off what an earlier source says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamoctl.config import paths
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.types import OWN_FIELDS
from dynamoctl.errors import SpecError
from dynamoctl.lmcache import config_file, environment, names, tables, values
from dynamoctl.lmcache.environment import Origin

FROM_ENVIRONMENT = " (from the environment)"
# A tier's fields: without the first, the others mean nothing.
_TIERS = (("disk", "disk_gb"), ("remote",), ("gds",))
_TIER_FIELDS = frozenset(name for tier in _TIERS for name in tier)


@dataclass
class Layer:
    """What one source says.

    Attributes:
        fields: fields of `[lmcache]`, by their names there.
        env: LMCache's other variables.
        off: fields and variables that are turned off.
        places: field or variable -> where it stands, for errors; what is not in it is from the TOML.
        sources: `lmcache.FIELD` or variable -> where it is from, as a plan shows it.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    off: set[str] = field(default_factory=set)
    places: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def take(self, variable: str, text: str, place: str, source: str, of_field: str = "") -> None:
        """Take one of LMCache's variables, checked; an empty one turns the setting off.

        Args:
            of_field: what a plan shows as the source of a field, if that is not `source`.
        """
        name = OWN_FIELDS.get(variable)
        if name is None:
            if text:
                self.env[variable] = text
                self.places[variable], self.sources[variable] = place, source
            else:
                self.off.add(variable)
            return
        plain = environment.unquote(text)
        if plain:
            self.fields[name] = int(plain) if name == "chunk_size" else plain
            self.places[name], self.sources[f"lmcache.{name}"] = place, of_field or source
        elif name in _TIER_FIELDS:
            self.off.add(name)

    def check(self) -> None:
        """Leave out what this source says of a tier that it turns off.

        Raises:
            SpecError: it gives a disk a folder and a size of 0; LMCache would silently not use it.
        """
        for first, *others in _TIERS:
            if first in self.off:
                for name in others:
                    self.fields.pop(name, None)
                continue
            for name in self.off.intersection(others) if first in self.fields else ():
                raise SpecError(
                    f"lmcache.{name}: the disk tier has a size of 0, and LMCache would not use"
                    f" it{self.places.get(first, '')}",
                    "give it a size, or leave out its folder as well",
                )

    def over(self, below: Layer) -> Layer:
        """This source's settings, and where it says nothing, those of another."""
        kept = dict(below.fields)
        for tier in _TIERS:
            if self.off.intersection(tier):
                for name in tier:
                    kept.pop(name, None)
        return Layer(
            {**kept, **self.fields},
            {name: text for name, text in below.env.items() if name not in self.off} | self.env,
            set(),
            {**below.places, **self.places},
            {**below.sources, **self.sources},
        )


def merge(table: dict[str, Any], environ: Mapping[str, str], config: str, *, on: bool) -> Layer:
    """Bring all of LMCache's settings into the table `[lmcache]` of the TOML.

    Args:
        table: the table, whose `env` is a table; it is changed.
        config: the name of the TOML.
        on: whether LMCache is used. Without it, nobody reads its file and its variables.

    Raises:
        SpecError: a setting is unknown, or LMCache would drop its value; a setting is given twice.
    """
    toml = _from_toml(table, config)
    own = _file_in(toml)
    path = environment.unquote(environ.get("LMCACHE_CONFIG_FILE") or own)
    layers = [_from_file(path)] if path and on else []
    layers.append(toml)
    if on:
        layers.append(_from_environment(environ))
    merged = Layer()
    for layer in layers:
        layer.check()
        merged = layer.over(merged)
    table.update(merged.fields)
    for name in _TIER_FIELDS - merged.fields.keys():
        table.pop(name, None)
    table["env"] = merged.env
    kept = {f"lmcache.{name}" for name in merged.fields} | {names.now(name) for name in merged.env}
    merged.sources = {name: source for name, source in merged.sources.items() if name in kept}
    return merged


def _file_in(toml: Layer) -> str:
    """LMCache's file, if the TOML names it; what is not text is left for the model to refuse."""
    path: object = toml.env.get("LMCACHE_CONFIG_FILE")
    return toml.env.pop("LMCACHE_CONFIG_FILE") if isinstance(path, str) else ""


def _from_toml(table: dict[str, Any], config: str) -> Layer:
    """The table's own fields, and LMCache's keys among them, which are taken out."""
    place = f" (in {config})"
    env = table["env"]
    layer = Layer({name: table[name] for name in table if name != "env"}, env)
    for key in [key for key in table if key not in LMCacheSpec.model_fields]:
        if key in tables.RENAMED:
            raise names.unknown_key(key, place)
        if key not in tables.KEYS and key not in tables.DEPRECATED:
            continue  # an unknown key, which the model refuses
        value, variable = table.pop(key), names.variable(key)
        del layer.fields[key]
        name = OWN_FIELDS.get(variable)
        if name in layer.fields:
            raise SpecError(f"lmcache.{key} and lmcache.{name} are the same setting", "remove one of them")
        if name and not _is_off(name, value):
            layer.fields[name] = value  # in TOML's types, which the model checks
            continue
        origin = Origin(f"lmcache.{key}", " = ", place)
        text = "" if name else values.as_text(tables.DEPRECATED.get(key, key), value, origin)
        if variable not in env:
            layer.take(variable, text and environment.check(variable, text, origin), place, config)
    layer.sources = dict.fromkeys(
        [*(f"lmcache.{name}" for name in layer.fields), *(names.now(name) for name in layer.env)], config
    )
    layer.places |= dict.fromkeys([*layer.fields, *layer.env], place)
    return layer


def _is_off(name: str, value: object) -> bool:
    if name == "disk_gb" and not isinstance(value, bool):
        return value == 0 or (isinstance(value, str) and (not value.strip() or environment.is_zero(value)))
    return name in _TIER_FIELDS and isinstance(value, str) and not value.strip()


def _from_file(path: str) -> Layer:
    layer = Layer()
    for setting in config_file.read(path):
        layer.take(setting.variable, setting.text, setting.place, path)
    return layer


def _from_environment(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    settings = environment.check_environment(paths.of_environment(environ, paths.here()))
    settings.pop("LMCACHE_CONFIG_FILE", None)  # read already
    for variable, text in settings.items():
        layer.take(variable, text, FROM_ENVIRONMENT, "environment", variable)
    return layer
