"""LMCache's settings: what it would drop in silence is an error here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.lmcache.environment import KEYS, check_environment


def refusal(**environ: str) -> SpecError:
    with pytest.raises(SpecError) as error:
        check_environment(environ)
    return error.value


@pytest.mark.parametrize(
    ("value", "gib"),
    [("20", "20"), ("20GiB", "20"), ("1.5g", "1.5"), ("2T", "2048"), ("20GB", "18.6265"), ("512 MiB", "0.5")],
)
def test_a_size_with_a_unit_is_converted_to_gib(value: str, gib: str) -> None:
    """LMCache itself would drop all but the first."""
    assert check_environment({"LMCACHE_MAX_LOCAL_CPU_SIZE": value}) == {"LMCACHE_MAX_LOCAL_CPU_SIZE": gib}


@pytest.mark.parametrize("value", ["twenty", "20XB", "-20", "", "0", "0GiB"])
def test_what_is_no_size_is_refused(value: str) -> None:
    assert f"drop LMCACHE_MAX_LOCAL_CPU_SIZE={value} and" in refusal(LMCACHE_MAX_LOCAL_CPU_SIZE=value).message


def test_tokens_with_a_unit_are_refused_with_an_example() -> None:
    error = refusal(LMCACHE_CHUNK_SIZE="20GB")
    assert error.hint == "set it to a whole number, as in 256"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LMCACHE_CHUNK_SIZE", "0"),
        ("LMCACHE_CHUNK_SIZE", "-1"),
        ("LMCACHE_CHUNK_SIZE", "256.0"),
        ("LMCACHE_CHUNK_SIZE", ""),
        ("LMCACHE_MAX_LOCAL_CPU_SIZE", "0"),
        ("LMCACHE_MAX_LOCAL_CPU_SIZE", "nan"),
        ("LMCACHE_LOCAL_CPU", "yes"),
        ("LMCACHE_LOCAL_CPU", "on"),
        ("LMCACHE_P2P_INIT_PORTS", "8200,x"),
        ("LMCACHE_BLEND_THRESHOLDS", "0.1;0.2"),
        ("LMCACHE_EXTRA_CONFIG", "[1]"),
        ("LMCACHE_EXTRA_CONFIG", "{"),
        ("LMCACHE_EXTRA_CONFIG", "[" * 100_000),
        ("LMCACHE_HIDDEN_STATES_RETRIEVE_MODE", "all"),
    ],
)
def test_a_value_that_lmcache_would_drop_or_misread(name: str, value: str) -> None:
    error = refusal(**{name: value})
    assert name in error.message
    assert error.hint


def test_yes_is_refused_with_the_words_that_lmcache_knows() -> None:
    assert "True or False" in refusal(LMCACHE_LOCAL_CPU="yes").hint


def test_an_object_that_may_hold_a_password_is_not_repeated() -> None:
    error = refusal(LMCACHE_EXTRA_CONFIG='{"password": "hunter2"')
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("LMCACHE_CHUNKSIZE", "LMCACHE_CHUNK_SIZE"),
        ("LMCACHE_MAX_CPU_SIZE", "LMCACHE_MAX_LOCAL_CPU_SIZE"),
        ("LMCACHE_chunk_size", "LMCACHE_CHUNK_SIZE"),
        ("LMCACHE_TRACK_USGAE", "LMCACHE_TRACK_USAGE"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, near: str) -> None:
    error = refusal(**{name: "1"})
    assert error.message == f"LMCache has no setting {name} and would silently ignore it"
    assert error.hint == f"did you mean '{near}'?"


def test_sound_settings_are_given_back_and_others_left_alone() -> None:
    sound = {
        "LMCACHE_CHUNK_SIZE": "128",
        "LMCACHE_LOCAL_CPU": "true",
        "LMCACHE_MAX_LOCAL_CPU_SIZE": "20",
        "LMCACHE_LOCAL_DISK": "/ssd/cache",
        "LMCACHE_REMOTE_URL": "redis://127.0.0.1:6379",
        "LMCACHE_P2P_INIT_PORTS": "8200, 8201",
        "LMCACHE_EXTRA_CONFIG": '{"a": 1}',
        "LMCACHE_CONFIG_FILE": "/etc/lmcache.yaml",
        "LMCACHE_RESP_ANYTHING": "x",
    }
    assert check_environment({**sound, "PATH": "/bin", "LMCACHEX": "1"}) == sound


@pytest.mark.packages
def test_keys_are_those_of_the_installed_lmcache() -> None:
    """In a process of its own: the import is slow, noisy and starts threads."""
    if find_spec("lmcache") is None:
        pytest.skip("lmcache is not installed")
    script = """
import json
from lmcache.v1.config import _CONFIG_DEFINITIONS as definitions
print()
print(json.dumps({key: getattr(one["env_converter"], "__name__", "") for key, one in definitions.items()}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    converters = json.loads(done.stdout.splitlines()[-1])
    kinds = {
        "int": "int",
        "float": "float",
        "_to_bool": "bool",
        "_to_int_list": "list of int",
        "_to_float_list": "list of float",
        "_to_str_list": "list of str",
        "str": "str",
        "_parse_local_disk": "str",
        "_to_hidden_states_retrieve_mode": "choice",
    }
    unnamed = {"extra_config": "json", "runtime_plugin_locations": "list of str"}
    assert {key: unnamed.get(key) or kinds[converter] for key, converter in converters.items()} == KEYS
