"""Strategies for what a user may hand to a command: arguments, environment, TOML, LMCache's YAML.

Most of it is right, and one or two things are odd: a command that is handed more refuses the first of them,
and never sees the others.
"""

from __future__ import annotations

import datetime
import itertools
import json
from typing import Any

import yaml
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.lmcache import remote_stores, tables
from hypothesis import strategies as st

# Names of flags, keys and variables that are known to end in a traceback or an internal error and are not
# fixed yet: nothing odd is drawn for them.
LEFT_OUT: frozenset[str] = frozenset()

# Values that programs stumble over, whatever they are for.
ODD = (
    "", " ", "0", "1", "2", "-1", "00", "1.5", "1e309", "nan", "-inf", "0x10", "1_000", "9" * 5000, "true",
    "None", "null", "~", "{}", "[]", "{", '{"a": 1}', '"256"', "'x'", ",", "a,b", "0,1", "0-3", "3-0",
    "a\nb", "a\rb", "\t", "\x1b[31m", "\x7f", "é", "٣", "²", "\u202e", "🦊", "\udcff", "x" * 300, "y" * 5000,
    "$(false)", "`false`", "%n", "%", "\\", "'", '"', "-", "--", "--x", "=", "#", "auto", "20GB",
    "2026-01-01", "a b",
    "/", ".", "..", "./m", "m/", "~/m", "~nobody-here/m", "/dev/null", "/proc/self/mem", "file://",
    "file:///x", "http://", "http://[", "http://[::1", "http://h:99999", "http://h", "http://me:pw@h:1", "://",
    "redis://", "redis://[::1", "redis://h:99999", "unix://[", "localhost", "127.0.0.1", "::", "0.0.0.0",
    "a." * 200, "https://" + "a" * 70 + ":2379", "redis://" + "a" * 70 + ":1", "fs://h:1/" + "x" * 300,
)  # fmt: skip
MODELS = ("smollm2-135m-instruct", "./m", "Qwen/Qwen3-0.6B")
STORES = tuple(kind.example for kind in remote_stores.KINDS.values())
# Flag of `up` -> values that are right for it.
FLAGS: dict[str, tuple[str, ...]] = {
    "--name": ("two",), "--model": MODELS, "--served-model-name": ("mine",), "--gpus": ("0", "0,1", "2-3"),
    "--device": ("cpu", "cuda", "auto"), "--workers": ("1", "2"), "--decode": ("2",), "--prefill": ("2",),
    "--tp": ("1", "2"), "--start": ("overlapped",), "--lmcache-mode": ("inproc", "mp"),
    "--lmcache-chunk-size": ("128",), "--lmcache-cpu-gb": ("1", "auto", "2GiB"), "--lmcache-disk": ("d",),
    "--lmcache-disk-gb": ("1",), "--lmcache-remote": STORES, "--lmcache-gds": ("g",),
    "--engine": ("vllm", "mocker"), "--decode-args": ("--seed 1",), "--prefill-args": ("--seed 1",),
    "--router-mode": ("kv", "random"), "--migration-limit": ("1",), "--host": ("0.0.0.0", "::"),
    "--port": ("8123",), "--discovery": ("etcd", "file"), "--etcd-endpoints": ("http://127.0.0.1:9",),
    "--roles": ("frontend", "decode"), "--advertise": ("lo", "127.0.0.1"), "--timeout": ("60",),
    "--hang-timeout": ("60",), "--drain": ("1",),
}  # fmt: skip
# Variable -> values that are right for it.
VARIABLES: dict[str, tuple[str, ...]] = {
    "ALL_PROXY": ("http://127.0.0.1:9",), "COLUMNS": ("80",), "CUDA_VISIBLE_DEVICES": ("0,1", "2-3", "-1"),
    "DYNAMOCTL_CACHE": ("cache",), "DYNAMOCTL_HOME": ("home",), "DYN_EVENT_PLANE": ("nats",),
    "DYN_LOG": ("info",), "ENABLE_LMCACHE": ("0", "1"), "ETCD_AUTH_PASSWORD": ("x",),
    "ETCD_AUTH_USERNAME": ("x",), "ETCD_ENDPOINTS": ("http://127.0.0.1:9",),
    "HF_ENDPOINT": ("http://127.0.0.1:9",), "HF_HOME": ("hf",), "HF_HUB_CACHE": ("hub",),
    "HF_HUB_OFFLINE": ("1",), "HF_TOKEN": ("hf_x",), "HTTPS_PROXY": ("127.0.0.1:9",), "LINES": ("24",),
    "LMCACHE_CONFIG_FILE": ("/dev/null",), "NATS_SERVER": ("nats://127.0.0.1:9",), "NO_COLOR": ("1",),
    "NO_PROXY": ("*",),
    "PYTHONHASHSEED": ("0",), "SSL_CERT_FILE": ("missing.pem",), "TERM": ("dumb",),
    "TERMINAL_WIDTH": ("80",), "VLLM_PLUGINS": ("dynamoctl",),
    "XDG_CACHE_HOME": ("c",), "XDG_STATE_HOME": ("s",),
}  # fmt: skip
_OF_KIND: dict[str, Any] = {
    "int": 256, "float": 1.5, "bool": True, "list of int": [0, 1], "list of float": [0.1],
    "list of str": ["x"], "list of one str": ["x"], "json": {"a": 1}, "str": "x", "choice": "prefix_strict",
}  # fmt: skip
_TOP = {
    "name": "two", "mode": "disagg", "model": "./m", "engine": "vllm", "device": "cpu", "port": 8123,
    "timeout_s": 60, "engine_args": ["--seed", "1"], "env": {"HF_HOME": "hf"}, "gpus": ["0-1"],
}  # fmt: skip
_CACHE = {"mode": "mp", "chunk_size": 128, "cpu_gb": 1, "env": {"LMCACHE_LOG_LEVEL": "INFO"}}
ENGINE: dict[str, tuple[str, ...]] = {
    "--max-model-len": ("4096",), "--gpu-memory-utilization": ("0.5",), "--gpu_memory_utilization": ("0.5",),
    "--block-size": ("16",), "--seed": ("1",), "--load-format": ("dummy",), "--max-num-seqs": ("64",),
    "--dtype": ("bfloat16",), "--num-gpu-blocks-override": ("128",),
}  # fmt: skip
COMMANDS = (
    ("up", "--dry-run"),
    ("up", "--dry-run", "--why"),
    ("up", "--dry-run", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("export", "shell"),
    ("export", "shell", "--output", "script"),
    ("export", "systemd"),
    ("export", "systemd", "--json"),
    ("export", "k8s"),
    ("export", "k8s", "--json", "--pvc", "claim"),
    ("init", "--output", "-"),
    ("init", "--output", "new.toml"),
)
# Commands that look at a deployment which is not there.
LOOKING = (
    ("status",), ("status", "--json"), ("down",), ("down", "--json"), ("logs",), ("cache", "check"),
    ("cache", "clear", "--json"), ("chat", "why"), ("bench", "reuse"), ("export", "prometheus"),
)  # fmt: skip

_TEXT = st.characters(codec="utf-8", exclude_characters="\0")
_RIGHT_WORDS = tuple(word for values in (*FLAGS.values(), *VARIABLES.values()) for word in values)
# An argument or a variable: any bytes but NUL, of which Python makes surrogates if they are not UTF-8.
odd_words = (
    st.sampled_from(ODD)
    | st.sampled_from(_RIGHT_WORDS)
    | st.text(_TEXT, max_size=20)
    | st.integers(-(2**70), 2**70).map(str)
    | st.builds("{}{}".format, st.sampled_from(_RIGHT_WORDS), st.sampled_from(ODD))
    | st.builds("{}{}".format, st.sampled_from(ODD), st.sampled_from(_RIGHT_WORDS))
)


def _names(names: Any) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(set(names) - LEFT_OUT))


def _one(table: dict[str, tuple[str, ...]]) -> st.SearchStrategy[tuple[str, str]]:
    """A name of the table with a value that is right for it."""
    return st.sampled_from([(name, value) for name, values in table.items() for value in values])


def _some(
    odd: st.SearchStrategy[Any], right: st.SearchStrategy[Any], most: int
) -> st.SearchStrategy[list[Any]]:
    """Some that are right, and at most two that are odd, in any order."""
    both = st.tuples(st.lists(right, max_size=most), st.lists(odd, max_size=2))
    return both.flatmap(lambda lists: st.permutations([*lists[0], *lists[1]]))


_SWITCHES = ("--lmcache", "--no-lmcache", "--misspelt", "-n", "-c")
_odd_flag = st.tuples(_names(FLAGS), odd_words) | _names(_SWITCHES).map(lambda name: (name,))
_BASES = (
    "agg", "agg --device cpu", "agg --gpus 0", "agg --workers 2 --gpus 0-1", "agg --tp 2 --gpus 2,3",
    "agg --gpus 0 --lmcache-disk d --lmcache-disk-gb 1", "agg --device cpu --lmcache-mode mp --model ./m",
    "agg --engine mocker", "agg --no-lmcache --device cpu", "agg --gpus 0 --lmcache-remote redis://127.0.0.1:9",
    "agg --device cpu --model Qwen/Qwen3-0.6B", "disagg", "disagg --gpus 0,1", "disagg --gpus 0,0",
    "disagg --decode 2 --prefill 2", "disagg --engine mocker --router-mode kv",
    "disagg --discovery etcd --etcd-endpoints http://127.0.0.1:9",
    "disagg --discovery etcd --etcd-endpoints http://127.0.0.1:9 --roles decode --advertise lo", "",
)  # fmt: skip
_VARIABLES_THAT_MAY_BE_ODD = (
    *VARIABLES, "HOME", "LMCACHE_MISSPELT", *(f"LMCACHE_{key.upper()}" for key in tables.KEYS)
)  # fmt: skip
_right_flags = st.lists(_one(FLAGS), max_size=1)
_odd_flags = st.lists(_odd_flag, min_size=1, max_size=2)
_engine_names = _names({*ENGINE, "--kv-cache-memory-bytes", "-O3", "--model", "--hf-token", "-tp", "--x"})
_right_engine = st.lists(_one(ENGINE), max_size=1)
_odd_engine = st.lists(
    st.tuples(_engine_names, odd_words) | _engine_names.map(lambda name: (name,)), min_size=1, max_size=2
)
_right_environment = st.lists(_one(VARIABLES), max_size=1).map(dict)
odd_environments = _some(st.tuples(_names(_VARIABLES_THAT_MAY_BE_ODD), odd_words), _one(VARIABLES), 1).map(
    dict
)


def _calls(flags: Any, engine: Any, environ: Any) -> st.SearchStrategy[tuple[list[str], dict[str, str]]]:
    arguments = st.builds(
        lambda base, flags, engine: [
            *base.split(), *itertools.chain(*flags), *(["--", *itertools.chain(*engine)] if engine else [])
        ],
        st.sampled_from(_BASES), flags, engine,
    )  # fmt: skip
    return st.tuples(arguments, environ)


# The arguments of a command that plans, and the environment.
calls = (
    _calls(_odd_flags, _right_engine, _right_environment)
    | _calls(_right_flags, _odd_engine, _right_environment)
    | _calls(_right_flags, _right_engine, odd_environments)
    | _calls(_odd_flags, _odd_engine, odd_environments)
)

_utf8_words = odd_words.filter(lambda word: "\udcff" not in word)
_DATES = st.dates() | st.datetimes()


def _values(more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    scalars = st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _utf8_words | _DATES | more
    keys = st.sampled_from(["a", "type", "LMCACHE_LOCAL_CPU", "A", "é", "a b"])
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=5,
    )


_HUGE = "HUGE"  # stands for a number with more digits than Python converts to text
_TOML_VALUES = _values(st.times() | st.just(_HUGE))
_ALL_OF_CACHE = _CACHE | {key: _OF_KIND[kind] for key, kind in tables.KEYS.items()}


def _items(right: dict[str, Any]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.sampled_from(list(right.items()))


def toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if value == _HUGE:
        return "0x" + "f" * 5000
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _toml_file(top: dict[str, Any], cache: dict[str, Any]) -> str:
    lines = [f"{key} = {toml(value)}" for key, value in top.items()]
    lines += ["[lmcache]", *(f"{key} = {toml(value)}" for key, value in cache.items())] if cache else []
    return "\n".join(lines)


def _damaged(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """The same, or with something else in its middle."""

    def damage(text: str, where: int, junk: str) -> str:
        at = where % (len(text) + 1)
        return text[:at] + junk + text[at + len(junk) :]

    return texts | texts | st.builds(damage, texts, st.integers(0, 10_000), _utf8_words)


_l2 = st.dictionaries(st.sampled_from(["type", "base_path", "host", "port", "x"]), _TOML_VALUES, max_size=2)
# Key -> values of the right type with something odd in them.
_TYPED: dict[str, st.SearchStrategy[Any]] = {
    "engine_args": st.lists(_utf8_words, max_size=2),
    "prefill_args": st.lists(_utf8_words, max_size=2),
    "env": st.dictionaries(_names(_VARIABLES_THAT_MAY_BE_ODD), _utf8_words, max_size=2),
    "l2": st.lists(
        st.builds(lambda kind, more: {"type": kind} | more, st.sampled_from(remote_stores.L2_ADAPTERS), _l2),
        max_size=2,
    ),
}


def _odd_keys(names: Any) -> st.SearchStrategy[tuple[Any, Any]]:
    typed = [st.tuples(st.just(name), _TYPED[name]) for name in sorted(_TYPED.keys() & names - LEFT_OUT)]
    return st.tuples(_names(names), _TOML_VALUES) | st.one_of(typed)


toml_files = _damaged(
    st.builds(
        _toml_file,
        _some(_odd_keys({*DeploymentSpec.model_fields, "misspelt"} - {"lmcache"}), _items(_TOP), 3).map(dict),
        _some(_odd_keys({*LMCacheSpec.model_fields, *tables.KEYS, "misspelt"}), _items(_ALL_OF_CACHE), 3).map(
            dict
        ),
    )
)
_YAML_KEYS = _names(tables.KEYS) | st.sampled_from(["misspelt", 1, True, None, 1.5])
_YAML_VALUES = _values(
    st.none() | st.binary(max_size=8) | st.sets(st.integers(), max_size=2) | st.just("\ud800")
)
_YAML_RIGHT = {key: _OF_KIND[kind] for key, kind in tables.KEYS.items()}
_YAML_ODD = (
    "0x" + "f" * 5000,
    "2026-13-45",
    "!!float x",
    "&a [*a]",
    "*a",
    "? x",
    "yes",
    "1:30",
    "!!python/none x",
)
yaml_files = _damaged(
    _some(st.tuples(_YAML_KEYS, _YAML_VALUES), _items(_YAML_RIGHT), 3).map(dict).map(yaml.safe_dump)
    # What has no tag is of the type that it looks like.
    | st.builds("{}: {}".format, _names(tables.KEYS), st.sampled_from([*ODD, *_YAML_ODD]))
)
