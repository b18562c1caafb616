"""LMCache's settings: what it would drop in silence is an error here."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.lmcache import tables
from dynamoctl.lmcache.environment import check_environment

ROOT = Path(__file__).parents[2]


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
        "LMCACHE_RESP_PASSWORD": "x",
    }
    assert check_environment({**sound, "PATH": "/bin", "LMCACHEX": "1"}) == sound


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("LMCACHE_CONTROLLER_PULL_ULR", "LMCACHE_CONTROLLER_PULL_URL"),
        ("LMCACHE_CONTROLLER_CONTROLLER_PROT", "LMCACHE_CONTROLLER_CONTROLLER_PORT"),
        ("LMCACHE_RESP_PASWORD", "LMCACHE_RESP_PASSWORD"),
        ("LMCACHE_AEROSPIKE_HOST", "LMCACHE_AEROSPIKE_HOSTS"),
        ("LMCACHE_COORDINATOR_URI", "LMCACHE_COORDINATOR_URL"),
        ("LMCACHE_EC_CHUNK_SISE", "LMCACHE_EC_CHUNK_SIZE"),
        ("LMCACHE_USE_UPSTREAM_PM", "LMCACHE_USE_UPSTREAM_MP"),
    ],
)
def test_a_misspelt_name_is_found_whatever_it_begins_with(name: str, near: str) -> None:
    assert refusal(**{name: "1"}).hint == f"did you mean '{near}'?"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LMCACHE_CONTROLLER_PULL_URL", "h:1"),
        ("LMCACHE_CONTROLLER_CONTROLLER_PORT", "9000"),
        ("LMCACHE_CONTROLLER_CONFIG_FILE", "/x"),
        ("LMCACHE_COORDINATOR_HEARTBEAT_INTERVAL", "3"),
        ("LMCACHE_EC_CHUNK_SIZE", "128"),
        ("LMCACHE_EC_NIXL_ROLE", "sender"),
        ("LMCACHE_USE_UPSTREAM_MP", "1"),
        ("LMCACHE_DEVICE_BACKEND", "cuda"),
        ("LMCACHE_USE_EXPERIMENTAL", "True"),
    ],
)
def test_what_something_reads_is_passed_on(name: str, value: str) -> None:
    assert check_environment({name: value}) == {name: value}


KUBERNETES = {
    "LMCACHE_SERVER_SERVICE_HOST": "10.96.0.12",
    "LMCACHE_SERVER_SERVICE_PORT": "65432",
    "LMCACHE_SERVER_SERVICE_PORT_HTTP_METRICS": "8080",
    "LMCACHE_SERVER_PORT": "tcp://10.96.0.12:65432",
    "LMCACHE_SERVER_PORT_65432_TCP": "tcp://10.96.0.12:65432",
    "LMCACHE_SERVER_PORT_65432_TCP_PROTO": "tcp",
    "LMCACHE_SERVER_PORT_65432_TCP_PORT": "65432",
    "LMCACHE_SERVER_PORT_65432_TCP_ADDR": "10.96.0.12",
    "LMCACHE_SERVICE_HOST": "10.96.0.13",
    "LMCACHE_PORT": "tcp://10.96.0.13:80",
    "LMCACHE_CONTROLLER_SERVICE_HOST": "10.96.0.14",
    "LMCACHE_CONTROLLER_PORT_9000_UDP_ADDR": "10.96.0.14",
    # A service of this name makes a variable that is also a setting.
    "LMCACHE_MP_PORT": "tcp://10.96.0.15:5555",
}
DOCKER = {
    "LMCACHE_PORT": "tcp://172.17.0.5:65432",
    "LMCACHE_NAME": "/engine/lmcache",
    "LMCACHE_ENV_PATH": "/usr/bin",
    "LMCACHE_PORT_65432_TCP_ADDR": "172.17.0.5",
}


@pytest.mark.parametrize("environ", [KUBERNETES, DOCKER])
def test_what_an_orchestrator_puts_beside_a_service_is_left_alone(environ: dict[str, str]) -> None:
    assert check_environment({**environ, "LMCACHE_LOCAL_CPU": "True"}) == {"LMCACHE_LOCAL_CPU": "True"}


@pytest.mark.parametrize("name", ["LMCACHE_NAME", "LMCACHE_ENV_PATH", "LMCACHE_PORT"])
def test_what_looks_like_a_link_and_is_none_is_refused(name: str) -> None:
    assert name in refusal(**{name: "65432"}).message


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("LMCACHE_PLUGIN_LOCATIONS", "LMCACHE_RUNTIME_PLUGIN_LOCATIONS"),
        ("LMCACHE_EXTERNAL_BACKENDS", "LMCACHE_STORAGE_PLUGINS"),
    ],
)
def test_a_deprecated_name_that_lmcache_takes_is_taken(name: str, now: str) -> None:
    assert check_environment({name: "x"}) == {now: "x"}
    assert "are the same setting" in refusal(**{name: "x", now: "y"}).message


def test_an_old_name_that_lmcache_ignores_is_refused_with_its_name_now() -> None:
    assert refusal(LMCACHE_ENABLE_XPYD="True").hint == "its name is LMCACHE_ENABLE_PD now"
    assert refusal(LMCACHE_NIXL_ROLE="sender").hint == "its name is LMCACHE_PD_ROLE now"


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("CHUNK_SIZE", '"256"', "256"),
        ("CHUNK_SIZE", " '256' ", "256"),
        ("MAX_LOCAL_CPU_SIZE", '"20GiB"', "20"),
        ("HIT_MISS_RATIO", "'0.5'", "0.5"),
        ("LOCAL_CPU", '"False"', "False"),
        ("P2P_INIT_PORTS", '"8200,8201"', "8200,8201"),
        ("BLEND_THRESHOLDS", "'0.1,0.2'", "0.1,0.2"),
        ("NIXL_BACKENDS", '"UCX,GDS"', "UCX,GDS"),
        ("EXTRA_CONFIG", "'{\"a\": 1}'", '{"a": 1}'),
        ("REMOTE_SERDE", '"naive"', "naive"),
        ("HIDDEN_STATES_RETRIEVE_MODE", "'legacy'", "legacy"),
        ("LOCAL_DISK", '"file:///mnt/a/,file:///mnt/b/"', "file:///mnt/a/,file:///mnt/b/"),
        ("REMOTE_URL", "'redis://h:1'", "redis://h:1"),
        # LMCache would take the space away.
        ("BLEND_SPECIAL_STR", '" # # "', "' # # '"),
        # Outside of its settings LMCache leaves quotes where they are, but no level has any.
        ("LOG_LEVEL", '"DEBUG"', "DEBUG"),
        ("TRACK_USAGE", "'false'", "false"),
        # A password may have some.
        ("RESP_PASSWORD", '"secret"', '"secret"'),
    ],
)
def test_quotes_are_taken_off_as_lmcache_does(name: str, given: str, text: str) -> None:
    checked = check_environment({f"LMCACHE_{name}": given})
    assert checked == {f"LMCACHE_{name}": text}
    assert check_environment(checked) == checked


@pytest.mark.parametrize("name", ["LOCAL_DISK", "MAX_LOCAL_DISK_SIZE", "REMOTE_URL", "GDS_PATH"])
@pytest.mark.parametrize("value", ["", " ", '""', "''"])
def test_a_tier_without_a_value_is_off(name: str, value: str) -> None:
    assert check_environment({f"LMCACHE_{name}": value}) == {f"LMCACHE_{name}": ""}


@pytest.mark.parametrize("value", ["0", "0.0", "0GiB", '"0"'])
def test_a_disk_of_size_0_is_off(value: str) -> None:
    checked = check_environment({"LMCACHE_MAX_LOCAL_DISK_SIZE": value})
    assert checked == {"LMCACHE_MAX_LOCAL_DISK_SIZE": ""}


@pytest.mark.parametrize(
    "name", ["P2P_HOST", "ENABLE_P2P", "PD_BUFFER_SIZE", "EXTRA_CONFIG", "NIXL_BACKENDS"]
)
def test_an_empty_variable_is_unset_where_lmcache_takes_its_default(name: str) -> None:
    assert check_environment({f"LMCACHE_{name}": ""}) == {f"LMCACHE_{name}": ""}


@pytest.mark.parametrize("name", ["LOCAL_CPU", "USE_GDS", "CHUNK_SIZE", "CACHE_POLICY", "REMOTE_SERDE"])
def test_an_empty_variable_is_refused_where_lmcache_makes_something_else_of_it(name: str) -> None:
    assert f"drop LMCACHE_{name}= and" in refusal(**{f"LMCACHE_{name}": ""}).message


@pytest.mark.parametrize("value", ["a\0b", '"\\x00"', '"\\ud800"'])
def test_what_no_environment_can_hold_is_refused(value: str) -> None:
    assert "cannot be passed to a process" in refusal(LMCACHE_REMOTE_SERDE=value).message


def test_a_long_value_is_not_repeated_as_a_whole() -> None:
    assert len(refusal(LMCACHE_RESERVE_LOCAL_CPU_SIZE="9" * 5000).message) < 200


# ---- against the installed engine --------------------------------------------------------------


def in_a_process_of_its_own(*arguments: str | Path) -> str:
    """The import of LMCache is slow, noisy and starts threads."""
    if find_spec("lmcache") is None:
        pytest.skip("lmcache is not installed")
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.packages
def test_the_tables_are_those_of_the_installed_packages() -> None:
    assert in_a_process_of_its_own(ROOT / "docs" / "lmcache_tables.py", "--check") == ""


TEXTS = [
    *(
        "",
        " ",
        "0",
        "1",
        "256",
        "+5",
        "1_000",
        " 7 ",
        "2.5",
        "1e3",
        "inf",
        "nan",
        "true",
        "False",
        "yes",
        "on",
    ),
    *(
        "0,1",
        "0, 1,",
        "0.1,0.2",
        "a",
        "a,b",
        "{}",
        '{"a": [1, null]}',
        "[1]",
        "null",
        "prefix-strict",
        "legacy",
    ),
    *(
        "'",
        '"',
        "'a",
        '"256"',
        "'256'",
        "'''a'''",
        "''a''",
        '"a" "b"',
        '"a" + "b"',
        '"\\t"',
        "' # # '",
        " # ",
    ),
    *('"True"', "'0,1'", "'{}'", '"{"a": 1}"', "file:///a/,file:///b/", "redis://h:1", "x" * 90, "ÿ", "٣"),
]
# What LMCache takes and dynamoctl does not, with the reason.
REFUSED_ON_PURPOSE = """
import math
def on_purpose(key, given):
    return (
        isinstance(given, bool)  # every word that is not true, read as False
        or given == ""  # a setting that has no empty value
        or 'nan' in str(given)
        or key in ("chunk_size", "max_local_cpu_size") and given <= 0
        or key in SIZES and not math.isfinite(given)
        or key == "extra_config"  # a list, which LMCache then fails to ask for a key
    )
"""


@pytest.mark.packages
def test_what_is_passed_on_is_what_lmcache_reads_from_what_was_given(tmp_path: Path) -> None:
    """For every setting and many texts: what LMCache would drop is refused, and the rest reads the same."""
    cases: list[tuple[str, str, str | None]] = []
    for key in tables.KEYS:
        for text in TEXTS:
            name, passed = f"LMCACHE_{key.upper()}", None
            with suppress(SpecError):
                passed = check_environment({name: text}).get(name, "")
            cases.append((key, text, passed))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "compare.py").write_text(
        """
import json, sys
from lmcache.v1 import config_base
from lmcache.v1.config import _CONFIG_DEFINITIONS as definitions
SIZES = ("max_local_cpu_size", "max_local_disk_size", "reserve_local_cpu_size")
"""
        + REFUSED_ON_PURPOSE
        + """
def read(key, text):
    try:
        return definitions[key]["env_converter"](config_base._parse_quoted_string(text))
    except ValueError:
        return None

def is_wrong(key, text, passed):
    given = read(key, text)
    if passed is None:
        return given is not None and not on_purpose(key, given)
    if passed == "":
        return bool(given) and given != definitions[key]["default"]
    again = read(key, passed)
    return again != given and not (key in SIZES and abs(again - given) < 1e-4 * given)

wrong = [case for case in json.load(open(sys.argv[1])) if case[0] in definitions and is_wrong(*case)]
print()
print(json.dumps(wrong[:20]))
"""
    )
    said = in_a_process_of_its_own(tmp_path / "compare.py", tmp_path / "cases.json")
    assert json.loads(said.splitlines()[-1]) == []
