"""The JSON schema of dynamoctl.toml and what `up` takes: the two must agree."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.cli import run
from dynamoctl.config.json_schema import meanings, schema
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.load import load_spec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.lmcache import environment, tables
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from tests.unit.test_spec import VALUES, WRONG_IN_THE_FILE

ROOT = Path(__file__).parents[2]
VALIDATOR = Draft7Validator(schema())


def takes(values: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(values))


def up_takes(text: str, tmp_path: Path) -> bool:
    file = tmp_path / "dynamoctl.toml"
    file.write_text(text, encoding="utf-8")
    try:
        load_spec({}, {}, file)
    except SpecError:
        return False
    return True


RIGHT = [
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.toml"))
] + [
    'gpus = [0, "1", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]\ndecode = 2\nmode = "disagg"',
    'gpus = " 0 , 0 "\nmode = "disagg"',
    "gpus = 3",
    "gpus = []",
    "timeout_s = 600\ndrain_s = 0",
    "timeout_s = 600.5",
    "migration_limit = 0",
    'mode = "disagg"\nprefill_args = ["--num-gpu-blocks-override", "128"]',
    '[env]\nHF_HOME = "/data"\nOPENAI_API_KEY = "x"',
    "[lmcache]",
    "[lmcache]\nenabled = false",
    '[lmcache]\ncpu_gb = "auto"\nlookup_timeout_ms = 500',
    "[lmcache]\ncpu_gb = 0.5",
    '[lmcache]\ncpu_gb = "20"',
    '[lmcache]\ncpu_gb = " 512 MiB "',
    '[lmcache]\ndisk = "file:///tmp/kv"\ndisk_gb = "20GB"',
    '[lmcache]\nremote = "redis://host:6379"',
    '[lmcache]\ngds = "~/kv"',
    "[lmcache]\nmax_local_cpu_size = 2",
    '[lmcache]\nremote_url = "unix:///run/redis.sock"',
    '[lmcache]\nlocal_cpu = true\nsave_decode_cache = "False"\nuse_layerwise = 1',
    '[lmcache]\nblend_thresholds = [0.1, 1]\np2p_init_ports = "8200,8201"\nnixl_backends = ["UCX"]',
    '[lmcache]\nextra_config = { a = 1 }\ncache_policy = "LRU"\npin_timeout_sec = "300"',
    '[lmcache]\nhidden_states_retrieve_mode = "prefix_strict"',
    '[[lmcache.l2]]\ntype = "fs"\nbase_path = "/tmp/kv"',
    '[lmcache.env]\nLMCACHE_LOCAL_CPU = "False"\nLMCACHE_LOG_LEVEL = "INFO"\nLMCACHE_RESP_PASSWORD = "x"',
]  # fmt: skip

WRONG = [
    "moddel = 'x'",
    "[lmcache]\nchunk_sise = 1",
    "[lmcahce]\nmode = 'mp'",
    "name = 'Bad Name'",
    "gpus = [true]",
    "gpus = [-1]",
    "gpus = ['zero']",
    "gpus = '0,,1'",
    "gpus = ''",
    "workers = 65",
    "timeout_s = '600'",
    "timeout_s = true",
    "drain_s = -1",
    "migration_limit = -1",
    "migration_limit = 101",
    "migration_limit = true",
    "engine_args = [1]",
    "[env]\nA = 1",
    "[env]\nLMCACHE_CHUNK_SIZE = '256'",
    "[lmcache]\ncpu_gb = true",
    "[lmcache]\ncpu_gb = 0",
    "[lmcache]\ncpu_gb = '0GiB'",
    "[lmcache]\ncpu_gb = -1",
    "[lmcache]\ncpu_gb = 2000000",
    "[lmcache]\ncpu_gb = '20XB'",
    "[lmcache]\ndisk = '/tmp/kv'\ndisk_gb = 'auto'",
    "[lmcache]\ndisk = 'file://'\ndisk_gb = 1",
    "[lmcache]\nremote = 'http://host'",
    "[lmcache]\nlocal_cpu = 'yes'",
    "[lmcache]\nmp_port = 'x'",
    "[lmcache]\nmp_port = true",
    "[lmcache]\np2p_init_ports = ['x']",
    "[lmcache]\nhidden_states_retrieve_mode = 'all'",
    "[[lmcache.l2]]\ntype = 'fss'",
    "[[lmcache.l2]]\nbase_path = '/tmp'",
    "[lmcache.env]\nHF_HOME = '/data'",
    "[lmcache.env]\nLMCACHE_LOCAL_CPU = 'yes'",
    "[lmcache.env]\nLMCACHE_LOCAL_CPU = true",
    "[lmcache.env]\nLMCACHE_LOKAL_CPU = 'True'",
]


def test_it_is_a_schema_and_has_no_reference() -> None:
    Draft7Validator.check_schema(schema())
    assert '"$ref"' not in json.dumps(schema())


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_for_up_is_right_for_an_editor(text: str, tmp_path: Path) -> None:
    assert up_takes(text, tmp_path)
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_for_up_is_wrong_for_an_editor(text: str, tmp_path: Path) -> None:
    assert not up_takes(text, tmp_path)
    assert not takes(tomllib.loads(text))


# JSON has no infinite number, and no schema here speaks of NUL.
BEYOND_A_SCHEMA = ("timeout_s = inf", "engine_args = ['a\\u0000']")


@pytest.mark.parametrize("text", [text for text, _ in WRONG_IN_THE_FILE if text not in BEYOND_A_SCHEMA])
def test_every_wrong_value_that_up_names_is_marked(text: str) -> None:
    assert not takes(tomllib.loads(text))


SIZES = (
    st.integers(-1, 2**21)
    | st.floats(-1, 2**21)
    | st.booleans()
    | st.text("0123456789.kKmMgGtTiIbB \t", max_size=8)
    | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,2})? ?[MGmg][iI]?[bB]?", fullmatch=True)
    | st.sampled_from(["auto", "20", "20GB", "20GiB", "0", "0.0GiB", "00.1", ".5", "5."])
)


@given(SIZES)
def test_both_take_the_same_sizes(size: object) -> None:
    for field, spec in (("cpu_gb", {}), ("disk_gb", {"disk": "/tmp/kv"})):
        taken = True
        try:
            LMCacheSpec.model_validate({**spec, field: size})
        except (ValueError, SpecError):
            taken = False
        # How much a text is at most, no pattern says: 1048576 GiB.
        far_too_much = isinstance(size, str) and not taken and _gib(size) > 1048576
        assert takes({"lmcache": {**spec, field: size}}) is taken or far_too_much


def _gib(size: str) -> float:
    with suppress(ValueError):
        return environment.gib(size)
    return 0.0


@given(
    st.sampled_from([name for name in DeploymentSpec.model_fields if name != "lmcache"]),
    VALUES.filter(lambda value: value is not None),
)
def test_whatever_up_takes_an_editor_takes(key: str, value: object) -> None:
    with suppress(SpecError):
        load_spec({key: value, "mode": "disagg"} if key in {"decode", "prefill"} else {key: value}, {})
        assert takes({key: value}), (key, value)


@pytest.mark.parametrize("model", [DeploymentSpec, LMCacheSpec])
def test_every_key_is_described(model: type[DeploymentSpec | LMCacheSpec]) -> None:
    assert all(meanings(model).values())
    keys = (
        schema()["properties"] if model is DeploymentSpec else schema()["properties"]["lmcache"]["properties"]
    )
    assert all(keys[name]["description"] for name in model.model_fields)


def test_every_setting_of_lmcaches_is_a_key() -> None:
    cache = schema()["properties"]["lmcache"]["properties"]
    assert tables.KEYS.keys() <= cache.keys()
    assert cache["max_local_cpu_size"]["anyOf"] == cache["cpu_gb"]["anyOf"]


def test_the_command_prints_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--schema"]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out), shown.err) == (schema(), "")
    assert (ROOT / "dynamoctl" / "dynamoctl.schema.json").read_text(encoding="utf-8") == shown.out
