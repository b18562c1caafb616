"""LMCache's settings in its YAML file and in dynamoctl's TOML: what each value becomes, and which wins."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml as pyyaml
from dynamoctl.config import template
from dynamoctl.config.load import load, load_spec
from dynamoctl.errors import SpecError
from dynamoctl.lmcache import tables
from hypothesis import given
from hypothesis import strategies as st

Write = Callable[..., dict[str, Any]]


@pytest.fixture
def files(tmp_path: Path) -> Write:
    """Arguments of `load_spec` for a TOML, LMCache's file and variables."""

    def write(toml: str = "", yaml: str = "", **environ: str) -> dict[str, Any]:
        config = tmp_path / "dynamoctl.toml"
        config.write_text(toml, encoding="utf-8")
        if yaml:
            (tmp_path / "lmcache.yaml").write_text(yaml, encoding="utf-8")
            environ["LMCACHE_CONFIG_FILE"] = str(tmp_path / "lmcache.yaml")
        return {"flags": {}, "environ": environ, "config": config if toml else None}

    return write


def refusal(**arguments: Any) -> SpecError:
    with pytest.raises(SpecError) as error:
        load_spec(**arguments)
    assert error.value.exit_code == 2
    return error.value


# ---- what a value becomes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaml", "variable", "text"),
    [
        ("blocking_timeout_secs: 5", "BLOCKING_TIMEOUT_SECS", "5"),
        ("blocking_timeout_secs: 5.0", "BLOCKING_TIMEOUT_SECS", "5"),  # LMCache: int(5.0)
        ("blocking_timeout_secs: 0x10", "BLOCKING_TIMEOUT_SECS", "16"),
        ("blocking_timeout_secs: 1_000", "BLOCKING_TIMEOUT_SECS", "1000"),
        ("blocking_timeout_secs: '5'", "BLOCKING_TIMEOUT_SECS", "5"),
        ("pd_allocation_timeout_sec: .inf", "PD_ALLOCATION_TIMEOUT_SEC", "inf"),
        ("local_cpu: yes", "LOCAL_CPU", "True"),  # YAML's, which LMCache reads as well
        ("local_cpu: 0", "LOCAL_CPU", "0"),
        ("p2p_init_ports: 8200", "P2P_INIT_PORTS", "8200"),
        ("p2p_init_ports: [8200, 8201.0]", "P2P_INIT_PORTS", "8200,8201"),
        ("nixl_backends: [UCX, GDS]", "NIXL_BACKENDS", "UCX,GDS"),
        ("runtime_plugin_locations: [/a]", "RUNTIME_PLUGIN_LOCATIONS", "/a"),
        ("plugin_locations: [/a]", "RUNTIME_PLUGIN_LOCATIONS", "/a"),
        ("extra_config: {a: 1, b: [x, null, true]}", "EXTRA_CONFIG", '{"a": 1, "b": ["x", null, true]}'),
        ("extra_config: '{\"a\": 1}'", "EXTRA_CONFIG", '{"a": 1}'),
        ("extra_config: {a: .nan}", "EXTRA_CONFIG", '{"a": NaN}'),  # Python's JSON, which LMCache reads
        ("<<: {app_id: x, chunk_size: 5}\napp_id: y", "APP_ID", "y"),
        ("extra_config: {a: &x [1], b: *x}", "EXTRA_CONFIG", '{"a": [1], "b": [1]}'),
        # LMCache converts what stands where it takes text.
        ("app_id: 2026-01-01", "APP_ID", "2026-01-01"),
        ("app_id: 2026-01-01 10:00:00", "APP_ID", "2026-01-01 10:00:00"),
        ("app_id: 7", "APP_ID", "7"),
        ("app_id: no", "APP_ID", "False"),
        ('blend_special_str: " # # "', "BLEND_SPECIAL_STR", "' # # '"),
        ("remote_serde: \"'naive'\"", "REMOTE_SERDE", "\"'naive'\""),
        ("ec: {chunk_size: 5}", "EC_CHUNK_SIZE", "5"),
        ("ec_local_cpu: true", "EC_LOCAL_CPU", "True"),
        ("\ufeffapp_id: x", "APP_ID", "x"),
    ],
)
def test_a_value_of_lmcaches_file_is_what_lmcache_reads_from_it(
    files: Write, yaml: str, variable: str, text: str
) -> None:
    assert load_spec(**files(yaml=yaml)).lmcache.env == {f"LMCACHE_{variable}": text}


@pytest.mark.parametrize(
    ("yaml", "line", "words"),
    [
        ("\nchunk_size: 25.5", 2, "drop chunk_size: 25.5"),
        ("chunk_size: true", 1, "drop chunk_size: True"),
        ("chunk_size: 70000", 1, "lmcache.chunk_size: input should be less"),
        ("chunk_size: 2026-01-01", 1, "it takes one value, not a date"),
        ("local_cpu: [true]", 1, "it takes one value, not a list"),
        ("app_id: {a: 1}", 1, "it takes one value, not a table"),
        ("app_id: !!binary aGk=", 1, "not binary data"),
        ("app_id: !!set {a, b}", 1, "not a set"),
        ("app_id: !!omap [a: 1]", 1, "not a list"),
        ('app_id: "\\0"', 1, "cannot be passed to a process"),
        ('app_id: "\\ud800"', 1, "cannot be passed to a process"),
        ("p2p_init_ports: [8200, [8201]]", 1, "not a list"),
        ("p2p_init_ports: [8200, null]", 1, "not nothing (null)"),
        ("nixl_backends: [UCX, 'a,b']", 1, "split an entry at its comma"),
        ("runtime_plugin_locations: [/a, /b]", 1, "LMCache reads one entry from a variable"),
        ("pd_buffer_size: 0x" + "f" * 5000, 1, "too large a number"),
        ("extra_config: [1]", 1, "not a list"),
        ("extra_config: {a: {since: 2026-01-01}}", 1, "extra_config.a.since"),
        ("extra_config: {a: [1, 10:00, 2026-01-01 10:00:00]}", 1, "extra_config.a.2"),
        ("extra_config: {a: !!binary aGk=}", 1, "cannot hold binary data"),
        ("extra_config: {a: !!set {b}}", 1, "cannot hold a set"),
        ("extra_config: {1: a}", 1, "the name of an entry is a number, not text"),
        ("extra_config: {null: a}", 1, "the name of an entry is nothing (null), not text"),
        ("extra_config: {a: 0x" + "f" * 5000 + "}", 1, "too large a number"),
        ("app_id: x\nchunk_size: 5\nchunk_size: 6", 3, "chunk_size is given twice"),
        ("extra_config: {a: 1,\n a: 2}", 2, "a is given twice"),
        ("plugin_locations: [/a]\nruntime_plugin_locations: [/b]", 2, "another key sets"),
        ("app_id: x\nnixl_role: sender", 2, "no setting nixl_role"),
        ("ec: {chunk_sise: 5}", 1, "no setting ec.chunk_sise"),
        ("ec_chunk_sise: 5", 1, "no setting ec_chunk_sise"),
        ("base: &b {a: 1}\nextra_config: {<<: *b}", 1, "no setting base"),
        ("on: 5", 1, "no setting on"),
        ("[a]: 5", 1, "no setting that is not text"),
        ("app_id: x\nlocal_disk: /x", 2, "the disk tier has no size"),
        ("app_id: x\nremote_url: redsi://h:1", 2, "is not a store that LMCache knows"),
        ("local_disk: /x\nmax_local_disk_size: 0", 1, "has a size of 0"),
    ],
)
def test_a_wrong_value_of_lmcaches_file_is_named_with_the_file_and_the_line(
    files: Write, yaml: str, line: int, words: str
) -> None:
    error = refusal(**files(yaml=yaml))
    assert words in error.message
    assert f"lmcache.yaml, line {line}" in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("a: [1", "is not YAML, line 1: expected ',' or ']'"),
        ("app_id: x\n\tb: 1", "is not YAML, line 2"),
        ("app_id: x\n---\nb: 1", "is not YAML, line 2: but found another document"),
        ("app_id: x\nchunk_size: 2026-13-01", "is not YAML, line 2: a value there is not what its form says"),
        ("chunk_size: !!int ''", "is not YAML, line 1: a value"),
        ("chunk_size: !!bool maybe", "is not YAML, line 1: a value"),
        ("chunk_size: !!timestamp now", "is not YAML, line 1: a value"),
        ("chunk_size: " + "9" * 5000, "is not YAML, line 1: a value"),
        ("chunk_size: !mine 5", "is not YAML, line 1: could not determine a constructor"),
        ("extra_config: &a {a: *a}", "is not YAML, line 1"),
        ("extra_config: {a: \x01}", "is not YAML: special characters are not allowed"),
        ("<<: 5", "is not YAML, line 1: expected a mapping"),
        ("app_id: *nobody", "is not YAML, line 1: found undefined alias"),
        ("a: " + "[" * 5000, "is not YAML"),
        ("- chunk_size", "holds no settings"),
        ("!!set {a}", "holds no settings"),
        ("chunk_size", "holds no settings"),
        ("# x\n" * 300_000, "is larger than 1 MiB"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(files: Write, yaml: str, words: str) -> None:
    message = refusal(**files(yaml=yaml)).message
    assert words in message
    assert message.startswith("LMCACHE_CONFIG_FILE=")


def test_aliases_that_hold_billions_of_values_are_refused(files: Write) -> None:
    levels = "".join(f", l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))
    assert "too many values" in refusal(**files(yaml=f"extra_config: {{l0: &l0 [x]{levels}}}")).message


@pytest.mark.parametrize("text", ["", "# nothing", "---", "null", "~"])
def test_an_empty_file_says_nothing(files: Write, text: str) -> None:
    assert load_spec(**files(yaml=text or "\n")).lmcache.env == {}


def test_a_file_in_quotes_is_found(files: Write, tmp_path: Path) -> None:
    arguments = files(yaml="app_id: x")
    arguments["environ"]["LMCACHE_CONFIG_FILE"] = f'"{tmp_path / "lmcache.yaml"}"'
    assert load_spec(**arguments).lmcache.env == {"LMCACHE_APP_ID": "x"}


# ---- TOML -----------------------------------------------------------------------------------------

DATES = {"date": "2026-01-01", "time": "10:00:00", "moment": "2026-01-01T10:00:00Z"}


@pytest.mark.parametrize("value", DATES.values())
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "name = {}",
        "gpus = [{}]",
        "port = {}",
        "timeout_s = {}",
        "mode = {}",
        "engine_args = [{}]",
        "env = {{ A = {} }}",
        "lmcache = {}",
        "roles = [{}]",
        "etcd_endpoints = [{}]",
        "[lmcache]\nenabled = {}",
        "[lmcache]\nchunk_size = {}",
        "[lmcache]\ncpu_gb = {}",
        "[lmcache]\ndisk = {}",
        "[lmcache]\ndisk_gb = {}",
        "[lmcache]\nremote = {}",
        "[lmcache]\nmax_local_disk_size = {}",
        "[lmcache]\nlocal_disk = {}",
        "[lmcache]\nlocal_cpu = {}",
        "[lmcache]\np2p_init_ports = [{}]",
        "[lmcache]\nextra_config = {{ a = {{ since = {} }} }}",
        "[lmcache]\nextra_config = {{ a = [{}] }}",
        "[lmcache]\nl2 = [{{ type = 'fs', since = {} }}]",
        "[lmcache]\nl2 = [{{ type = {} }}]",
        "[lmcache]\nl2 = {}",
        "[lmcache]\nenv = {{ LMCACHE_LOG_LEVEL = {} }}",
        "[lmcache]\nenv = {{ LMCACHE_CONFIG_FILE = {} }}",
        "[lmcache]\nnonsense = {}",
    ],
)
def test_a_date_is_refused_in_every_place_with_its_name(files: Write, text: str, value: str) -> None:
    error = refusal(**files(toml=text.format(value)))
    assert "dynamoctl.toml" in error.message
    assert "datetime" not in error.message


def test_a_date_is_text_where_lmcache_takes_text(files: Write) -> None:
    spec = load_spec(**files(toml="[lmcache]\napp_id = 2026-01-01"))
    assert spec.lmcache.env == {"LMCACHE_APP_ID": "2026-01-01"}


def test_where_a_date_is_in_a_table(files: Write) -> None:
    error = refusal(**files(toml="[lmcache.extra_config.a]\nsince = 2026-01-01"))
    assert error.message.startswith("lmcache.extra_config.a.since (in ")
    assert error.message.endswith("dynamoctl.toml): it is handed over as JSON, which cannot hold a date")
    assert error.hint == "quote it as text"


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000])
@pytest.mark.parametrize(
    "text",
    [
        "port = {}",
        "gpus = [{}]",
        "timeout_s = {}",
        "[lmcache]\ncpu_gb = {}",
        "[lmcache]\nextra_config = {{a = {}}}",
        "[lmcache]\nl2 = [{{type = 'fs', a = {}}}]",
        "[lmcache]\npin_timeout_sec = {}",
        "[env]\nA = {}",
    ],
)
def test_a_number_of_many_digits_is_refused(files: Write, text: str, digits: str) -> None:
    assert len(refusal(**files(toml=text.format(digits))).message) < 400


def test_an_old_name_in_the_toml_is_refused_with_its_name_now(files: Write) -> None:
    assert refusal(**files(toml="[lmcache]\nnixl_role = 'sender'")).hint == "its name is pd_role now"
    spec = load_spec(**files(toml="[lmcache]\nexternal_backends = ['a', 'b']"))
    assert spec.lmcache.env == {"LMCACHE_STORAGE_PLUGINS": "a,b"}


# ---- off, and which source wins --------------------------------------------------------------------

DISK = "local_disk: /y\nmax_local_disk_size: 5\n"


@pytest.mark.parametrize(
    ("toml", "yaml", "environ", "wanted"),
    [
        ("", "local_disk: null\nmax_local_disk_size: 0\nremote_url: NULL\ngds_path: ~", {}, {}),
        ("", "local_disk: null\nmax_local_disk_size: 5", {}, {}),
        ("", "max_local_disk_size: null\nchunk_size: null\nlocal_cpu: null", {}, {}),
        ("", "max_local_disk_size: 0.0", {}, {}),
        ("", "remote_url: ''\nlocal_disk: ''", {}, {}),
        ("", "", {"REMOTE_URL": "", "LOCAL_DISK": "", "GDS_PATH": "", "MAX_LOCAL_DISK_SIZE": "0"}, {}),
        ("", "", {"LOCAL_DISK": "", "MAX_LOCAL_DISK_SIZE": "5"}, {}),
        ("", DISK, {}, {"disk": "/y", "disk_gb": 5.0}),
        # A later source turns off what an earlier one says.
        ("", DISK, {"LOCAL_DISK": ""}, {}),
        ("", DISK, {"MAX_LOCAL_DISK_SIZE": "0"}, {}),
        ("max_local_disk_size = 0", DISK, {}, {}),
        ("local_disk = ''", DISK, {}, {}),
        ("remote = 'redis://h:1'\ndisk = '/x'\ndisk_gb = 1", "", {"REMOTE_URL": "", "LOCAL_DISK": ""}, {}),
        ("remote_url = ' '", "remote_url: redis://h:1", {}, {}),
        ("gds = '/x'", "", {"GDS_PATH": "''"}, {}),
        # An earlier source does not turn off what a later one says.
        ("disk = '/x'\ndisk_gb = 1", "local_disk: null", {}, {"disk": "/x", "disk_gb": 1.0}),
        ("disk = '/x'\ndisk_gb = 1", "max_local_disk_size: 0", {}, {"disk": "/x", "disk_gb": 1.0}),
        ("remote = 'redis://h:1'", "remote_url: null", {}, {"remote": "redis://h:1"}),
        ("", DISK, {"LOCAL_DISK": "/z"}, {"disk": "/z", "disk_gb": 5.0}),
        ("", DISK, {"MAX_LOCAL_DISK_SIZE": "7GiB"}, {"disk": "/y", "disk_gb": 7.0}),
    ],
)  # fmt: skip
def test_off_is_not_an_error(
    files: Write, toml: str, yaml: str, environ: dict[str, str], wanted: dict[str, Any]
) -> None:
    variables = {f"LMCACHE_{name}": value for name, value in environ.items()}
    arguments = files(toml=f"[lmcache]\n{toml}" if toml else "", yaml=yaml, **variables)
    spec, sources = load(**arguments)
    assert spec.lmcache.model_dump(exclude_unset=True) == wanted
    assert sources.keys() == {f"lmcache.{name}" for name in wanted}


@pytest.mark.parametrize(
    "environ",
    [{"LMCACHE_LOCAL_DISK": "/x", "LMCACHE_MAX_LOCAL_DISK_SIZE": "0"}, {"LMCACHE_LOCAL_DISK": "/x"}],
)
def test_a_folder_without_room_for_it_is_an_error(environ: dict[str, str]) -> None:
    assert "(from the environment)" in refusal(flags={}, environ=environ).message


def test_an_empty_variable_turns_off_what_the_file_says(files: Write) -> None:
    arguments = files(yaml="p2p_host: h\napp_id: x", LMCACHE_P2P_HOST="")
    assert load_spec(**arguments).lmcache.env == {"LMCACHE_APP_ID": "x"}


def test_a_flag_wins_over_a_variable_that_turns_a_tier_off() -> None:
    flags = {"lmcache.remote": "redis://h:1"}
    assert load_spec(flags, {"LMCACHE_REMOTE_URL": ""}).lmcache.remote == "redis://h:1"


@pytest.mark.parametrize(
    ("flags", "environ", "toml"),
    [
        ({"lmcache.enabled": False}, {}, ""),
        ({}, {"ENABLE_LMCACHE": "0"}, ""),
        ({}, {"ENABLE_LMCACHE": '"0"'}, ""),
        ({}, {}, "[lmcache]\nenabled = false"),
    ],
)
def test_without_lmcache_nobody_reads_its_variables(
    files: Write, flags: dict[str, Any], environ: dict[str, str], toml: str
) -> None:
    arguments = files(toml=toml, LMCACHE_NONSENSE="1", LMCACHE_CONFIG_FILE="/no/such", **environ)
    assert not load_spec(**{**arguments, "flags": flags}).lmcache.enabled


# ---- LMCache's own disaggregation ------------------------------------------------------------------

SENDER = """
local_cpu: False
max_local_cpu_size: 0
max_local_disk_size: 0
enable_pd: True
transfer_channel: "nixl"
pd_role: "sender"
pd_proxy_host: "localhost"
pd_proxy_port: 7500
pd_buffer_size: 1073741824
pd_buffer_device: "cuda"
"""


@pytest.mark.parametrize("mode", ["agg", "disagg"])
@pytest.mark.parametrize("cache", ["mp", "inproc"])
def test_a_file_for_lmcaches_own_disaggregation_is_refused_with_what_does_it_here(
    files: Write, mode: str, cache: str
) -> None:
    arguments = files(yaml=SENDER)
    error = refusal(**{**arguments, "flags": {"mode": mode, "lmcache.mode": cache}})
    assert error.message.startswith("enable_pd (in ")
    assert "lmcache.yaml, line 5" in error.message
    assert "up disagg" in error.hint
    assert "--no-lmcache" in error.hint
    assert "LMCACHE_ENABLE_PD" in refusal(flags={}, environ={"LMCACHE_ENABLE_PD": "1"}).message
    assert "LMCACHE_ENABLE_PD" in refusal(**files(toml="[env]\nLMCACHE_ENABLE_PD = 'true'")).message


def test_disaggregation_that_is_off_is_no_error(files: Write) -> None:
    assert load_spec(**files(yaml="enable_pd: false")).lmcache.env == {"LMCACHE_ENABLE_PD": "False"}


# ---- whatever a file holds -------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**4300, 10**4301)
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.sampled_from(["0", "20GiB", "a,b", "redis://h:1", "/x", '"x"', "'", "{}"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text() | st.integers() | st.none() | st.dates(), inner, max_size=3)
    | st.sets(st.text(), max_size=2),
    max_leaves=5,
)
KEYS = st.sampled_from([*tables.KEYS, *tables.DEPRECATED, *tables.RENAMED, "ec", "ec_chunk_size", "x"])


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_lmcaches_file_holds_there_is_a_spec_or_an_error_in_words(body: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "lmcache.yaml"
        with suppress(ValueError):  # PyYAML cannot write a number of so many digits
            file.write_text(pyyaml.safe_dump(body, allow_unicode=True), encoding="utf-8")
            with suppress(SpecError):
                spec = load_spec({}, {"LMCACHE_CONFIG_FILE": str(file)})
                assert all("\0" not in value for value in spec.lmcache.env.values())


@given(
    st.text(alphabet="a:[]{}&*<!|>-'\"#%@`,?\n\t 0123456789.eTyno~\\", max_size=60) | st.binary(max_size=40)
)
def test_whatever_text_lmcaches_file_is_there_is_a_spec_or_an_error_in_words(text: str | bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "lmcache.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with suppress(SpecError):
            load_spec({}, {"LMCACHE_CONFIG_FILE": str(file)})


class Verbatim(str):
    """TOML's own text of a value."""


TOML_VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates().map(lambda day: Verbatim(day.isoformat()))
    | st.times().map(lambda clock: Verbatim(clock.isoformat()))
    | st.datetimes(datetime(1000, 1, 1)).map(lambda moment: Verbatim(moment.isoformat()))
    | st.just(Verbatim("0x" + "f" * 5000)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def written(value: Any) -> str:
    if isinstance(value, Verbatim):
        return value
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{template.toml(str(key))} = {written(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return f"[{', '.join(written(one) for one in value)}]"
    return repr(value).replace("+", "") if isinstance(value, float) else template.toml(value)


FIELDS = ["enabled", "mode", "chunk_size", "cpu_gb", "disk", "disk_gb", "remote", "gds", "l2", "env"]


@given(
    st.dictionaries(
        st.sampled_from(["name", "model", "gpus", "port", "tp", "env", "roles", "x"]), TOML_VALUES
    ),
    st.dictionaries(st.sampled_from(FIELDS) | KEYS, TOML_VALUES, max_size=4),
)
def test_whatever_the_toml_holds_there_is_a_spec_or_an_error_in_words(
    values: dict[str, Any], cache: dict[str, Any]
) -> None:
    lines = [f"{key} = {written(value)}" for key, value in values.items()]
    lines += ["[lmcache]", *(f"{key} = {written(value)}" for key, value in cache.items())]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "dynamoctl.toml"
        file.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        with suppress(SpecError):
            load_spec({}, {}, file)


def test_the_texts_above_are_toml() -> None:
    value = {"a": [1, 1e30, Verbatim("2026-01-01"), Verbatim("10:00:00")], 'b"': {"c": float("nan")}}
    body = tomllib.loads(f"x = {written(value)}")["x"]
    assert body["a"] == [1, 1e30, date(2026, 1, 1), time(10)]
