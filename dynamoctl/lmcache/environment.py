"""LMCache's settings, checked because LMCache silently drops invalid ones.

LMCache reads `LMCACHE_<KEY>`. It turns a value that does not parse into None with one warning, reads `yes` as
false, and ignores an unknown name (lmcache==0.5.6:lmcache/v1/config.py, lmcache/v1/config_base.py). The
engine then serves without a cache. In dynamoctl, each of these is an error.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dynamoctl.errors import SpecError
from dynamoctl.lmcache import names
from dynamoctl.lmcache.names import PROCESS_VARIABLES
from dynamoctl.lmcache.tables import EMPTY_IS_UNSET, KEYS, PREFIX

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([mgt])(i?)b?)?", re.IGNORECASE | re.ASCII)
# A pattern for sizes above 0 in a JSON schema (ECMA 262 patterns have no flags).
SIZE_PATTERN = r"^\s*([0-9]*[1-9][0-9]*(\.[0-9]+)?|0+\.[0-9]*[1-9][0-9]*)\s*([mMgGtT]([iI]?[bB]?))?\s*$"
_POWER = {"m": 2, "g": 3, "t": 4}
# Keys whose values may have a unit. They are converted to GiB, because LMCache takes a number of GiB.
SIZES = frozenset({"max_local_cpu_size", "max_local_disk_size", "reserve_local_cpu_size"})
# Characters of a refused value in a message.
_MOST_SHOWN = 80
# Tiers that an empty variable turns off. LMCache itself would make a tier of an empty URL or GDS path.
_TIERS = frozenset({"local_disk", "max_local_disk_size", "remote_url", "gds_path"})


@dataclass(frozen=True)
class Origin:
    """Where a setting stands, for messages.

    Attributes:
        name: the setting as the user wrote it.
        between: what stands between its name and its value there.
        place: the file and the line, as in ` (in FILE, line 3)`.
    """

    name: str
    between: str = "="
    place: str = ""


def gib(text: str) -> float:
    """A size in GiB, from `20` (GiB), `20GiB`, `20G` (GiB, as in LMCache) or `20GB` (powers of ten).

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"'{text}' is not a size: write it as in 20 (GiB), 20GiB or 20GB")
    number, unit, binary = float(match[1]), match[2], match[3]
    if not unit:
        return number
    decimal = not binary and match[0].lower().endswith("b")
    return number * float(1000 if decimal else 1024) ** _POWER[unit.lower()] / 1024**3


def is_zero(text: str) -> bool:
    """Whether a text is a size, and that is 0."""
    try:
        return gib(text) == 0
    except ValueError:
        return False


def unquote(text: str) -> str:
    """A variable's text as LMCache reads it: without space around it, and without quotes.

    Compose files and files of variables leave quotes in a value. LMCache takes them off for each setting:
    lmcache==0.5.6:lmcache/v1/config_base.py:_parse_quoted_string.
    """
    text = text.strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        with warnings.catch_warnings():  # of an escape that Python does not know
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text[1:-1]
    return value if isinstance(value, str) else text


def quote(text: str) -> str:
    """The variable's text that LMCache reads as this one."""
    return text if unquote(text) == text else repr(text)


def _integer(value: str) -> None:
    int(value)


def _number(value: str) -> None:
    if not math.isfinite(float(value)) and value.strip().lower() != "inf":
        raise ValueError


def _boolean(value: str) -> None:
    if value.strip().lower() not in {"true", "false", "1", "0"}:
        raise ValueError


def _json_object(value: str) -> None:
    if not isinstance(json.loads(value), dict):
        raise ValueError


def _integers(value: str) -> None:
    for part in value.split(","):
        if part.strip():
            int(part)


def _numbers(value: str) -> None:
    for part in value.split(","):
        if part.strip():
            _number(part)


def _retrieve_mode(value: str) -> None:
    known = {"prefix_strict", "prefixstrict", "skip_missing_chunks", "skipmissingchunks", "legacy"}
    if value.strip().lower().replace("-", "_") not in known:
        raise ValueError


_CHECKS: dict[str, tuple[Callable[[str], None], str]] = {
    "int": (_integer, "a whole number, as in 256"),
    "float": (_number, "a number without a unit, as in 20 (a size is in GiB)"),
    "bool": (_boolean, "True or False (LMCache reads every other word as False)"),
    "json": (_json_object, "a JSON object"),
    "list of int": (_integers, "comma-separated whole numbers, as in 0,1"),
    "list of float": (_numbers, "comma-separated numbers, as in 0.1,0.2"),
    "choice": (_retrieve_mode, "prefix_strict or skip_missing_chunks"),
}
_POSITIVE = frozenset({"chunk_size", "max_local_cpu_size"})


def check_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's `LMCACHE_*` variables, checked, by the names that settings have now.

    Sizes are in GiB without a unit. A setting that is turned off is empty. What Kubernetes or docker put
    there is left out.

    Raises:
        SpecError: a name is unknown (the hint has the nearest known one), or LMCache would drop or misread a
            value.
    """
    variables: dict[str, str] = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or names.is_service_link(name, environ):
            continue
        now = names.now(name)
        if now in variables:
            raise SpecError(f"{name} and {now} are the same setting", "remove one of them")
        variables[now] = check(name, value)
    return variables


def check(name: str, value: str, origin: Origin | None = None) -> str:
    """The value of one variable, in a form that LMCache reads correctly; empty if the setting is off.

    Args:
        origin: where the setting stands; None for the environment.

    Raises:
        SpecError: as `check_environment`.
    """
    origin = origin or Origin(name)
    key = names.setting_of(name)
    if key is not None:
        text = unquote(value)
        _check_characters(text, origin)
        if key == "enable_pd" and text.lower() in {"true", "1"}:
            raise own_transfer(origin)
        return quote(_setting(key, text, value, origin))
    if name in names.ENCODER_VARIABLES:
        # LMCache does not take the quotes off these.
        return _setting(names.ENCODER_VARIABLES[name], value, value, origin) or value
    if name not in PROCESS_VARIABLES:
        raise names.unknown(name, origin.place)
    # A password may begin and end with a quote.
    return value if name.startswith(names.STORE_PREFIXES) else unquote(value)


def _setting(key: str, value: str, given: str, origin: Origin) -> str:
    """The checked text of a setting: without quotes, and a size without a unit.

    Args:
        given: the text as the user wrote it, for the message.
    """
    if not value and (key in EMPTY_IS_UNSET or key in _TIERS):
        return ""
    test, wanted = _CHECKS.get(KEYS[key], (lambda _: None, ""))
    try:
        text = _size(value) if key in SIZES else value
        test(text)
        if key in _POSITIVE and float(text) <= 0:
            raise ValueError
        if not value:
            raise ValueError
    except (ValueError, RecursionError):
        raise _dropped(key, value, given, wanted, origin) from None
    return "" if key == "max_local_disk_size" and float(text) == 0 else text


def _size(text: str) -> str:
    """A size in GiB: a number as LMCache reads it, or a number and a unit."""
    try:
        size = float(text)
    except ValueError:
        size = gib(text)
    if not 0 <= size < math.inf:
        raise ValueError
    return f"{size:.6g}" if size < 1e6 else f"{size:.0f}"


def own_transfer(origin: Origin) -> SpecError:
    """LMCache's own disaggregation, which stands in the place of what a plan decides.

    A sender stores nothing and waits for the address of a receiver in each request, which only LMCache's
    proxy gives it: lmcache==0.5.6:lmcache/v1/storage_backend/pd_backend_async.py:PDBackendAsync,
    lmcache/integration/vllm/vllm_v1_adapter.py:disagg_spec.
    """
    return SpecError(
        f"{origin.name}{origin.place}: LMCache's own disaggregation needs its proxy in front of the engines,"
        " and here Dynamo's frontend is there",
        "leave enable_pd and the pd_ settings out, and run `up disagg`: NIXL moves the KV cache from prefill"
        " to decode; add --no-lmcache to serve without a cache",
    )


def _check_characters(text: str, origin: Origin) -> None:
    """An environment holds neither NUL nor half of a surrogate pair, which a YAML file can write."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = "\0"
    if "\0" in text:
        raise SpecError(
            f"{origin.name}{origin.place}: it has a character that cannot be passed to a process",
            "remove the NUL or the lone surrogate",
        )


def _dropped(key: str, value: str, given: str, wanted: str, origin: Origin) -> SpecError:
    hint = f"set it to {wanted}" if wanted else "give it a value, or remove it"
    if key == "max_local_cpu_size" and is_zero(value):
        hint = "CPU memory is always a tier: leave it out for the default, or take --no-lmcache"
    elif KEYS[key] == "float" and key not in SIZES and _SIZE.fullmatch(value.strip()):
        hint = f"set it in GiB, without a unit: {origin.name}{origin.between}{gib(value):g}"
    # A JSON object may hold a password; values of other kinds cannot.
    setting = origin.name if KEYS[key] == "json" else f"{origin.name}{origin.between}{_short(given)}"
    return SpecError(f"LMCache would silently drop {setting}{origin.place} and run without it", hint)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
