"""What the user asked for: merging, and an error with a way out for everything that makes no deployment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from dynamoctl.config.choices import ROUTER_MODES
from dynamoctl.config.load import flag_of, load, load_spec, switch
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from hypothesis import given
from hypothesis import strategies as st

Toml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path) -> Toml:
    def write(text: str) -> Path:
        file = tmp_path / "dynamoctl.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refusal(
    flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, config: Path | None = None
) -> SpecError:
    with pytest.raises(SpecError) as error:
        load_spec(flags or {}, environ or {}, config)
    assert error.value.exit_code == 2
    return error.value


# ---- merging --------------------------------------------------------------------------------


def test_defaults() -> None:
    spec = load_spec({}, {})
    assert (spec.name, spec.mode, spec.device, spec.engine) == ("default", "agg", "auto", "vllm")
    assert (spec.host, spec.port, spec.timeout_s) == ("127.0.0.1", 8000, 1800.0)
    assert (spec.lmcache.enabled, spec.lmcache.mode, spec.lmcache.chunk_size) == (True, "auto", 256)


def test_flags_win_over_environment_over_file_over_defaults(toml: Toml) -> None:
    config = toml("[lmcache]\nchunk_size = 1\ncpu_gb = 1\nmode = 'mp'\n")
    environ = {"LMCACHE_CHUNK_SIZE": "2", "LMCACHE_MAX_LOCAL_CPU_SIZE": "2"}
    cache = load_spec({"lmcache.chunk_size": 3}, environ, config).lmcache
    assert (cache.chunk_size, cache.cpu_gb, cache.mode, cache.enabled) == (3, 2.0, "mp", True)


def test_a_flag_that_is_not_given_leaves_the_file_alone(toml: Toml) -> None:
    spec = load_spec({"port": None, "lmcache.mode": None}, {}, toml("port = 9000\n[lmcache]\nmode = 'mp'"))
    assert (spec.port, spec.lmcache.mode) == (9000, "mp")


def test_a_flag_that_is_false_is_given(toml: Toml) -> None:
    assert not load_spec({"lmcache.enabled": False}, {}, toml("[lmcache]\nenabled = true")).lmcache.enabled


def test_a_whole_file(toml: Toml) -> None:
    spec = load_spec(
        {},
        {},
        toml("""
name = "qwen-prod"
mode = "disagg"
model = "Qwen/Qwen3-8B"
gpus = [0, "1", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]
decode = 2
timeout_s = 600
engine_args = ["--max-model-len", "8192"]
[lmcache]
cpu_gb = 40
[env]
HF_HOME = "/data"
"""),
    )
    assert spec.gpus == ("0", "1", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")
    assert (spec.ranks, spec.timeout_s, spec.lmcache.cpu_gb) == (3, 600.0, 40.0)
    assert spec.engine_args == ("--max-model-len", "8192")
    assert spec.env == {"HF_HOME": "/data"}


def test_lmcaches_other_variables_are_kept_and_win_over_the_file(toml: Toml) -> None:
    config = toml("[lmcache.env]\nLMCACHE_LOCAL_CPU = 'True'\nLMCACHE_CACHE_POLICY = 'LRU'")
    spec = load_spec({}, {"LMCACHE_LOCAL_CPU": "False", "PATH": "/bin"}, config)
    assert spec.lmcache.env == {"LMCACHE_LOCAL_CPU": "False", "LMCACHE_CACHE_POLICY": "LRU"}


@pytest.mark.parametrize(
    ("value", "on"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("False", False), ("", False)],
)
def test_enable_lmcache(value: str, on: bool) -> None:
    assert load_spec({}, {"ENABLE_LMCACHE": value}).lmcache.enabled is on


def test_a_flag_wins_over_enable_lmcache() -> None:
    assert load_spec({"lmcache.enabled": True}, {"ENABLE_LMCACHE": "0"}).lmcache.enabled


def test_enable_lmcache_that_is_neither_on_nor_off() -> None:
    error = refusal(environ={"ENABLE_LMCACHE": "maybe"})
    assert error.message == "ENABLE_LMCACHE=maybe is neither on nor off"
    assert error.hint == "set ENABLE_LMCACHE=1 or ENABLE_LMCACHE=0"


@pytest.mark.parametrize("table", ["env", "lmcache.env"])
def test_enable_lmcache_in_a_table_of_variables_would_not_be_read(toml: Toml, table: str) -> None:
    error = refusal(config=toml(f'[{table}]\nENABLE_LMCACHE = "0"'))
    assert "ENABLE_LMCACHE has its own key: set lmcache.enabled" in error.message
    assert error.exit_code == 2


def test_lmcaches_settings_in_env_are_settings_of_the_plan(toml: Toml) -> None:
    config = toml(
        '[env]\nLMCACHE_CACHE_POLICY = "noop"\nLMCACHE_LOG_LEVEL = "DEBUG"\nNCCL_DEBUG = "INFO"\n'
        '[lmcache.env]\nLMCACHE_CACHE_POLICY = "LRU"\nLMCACHE_LOCAL_CPU = "True"'
    )
    spec, sources = load({}, {"LMCACHE_LOCAL_CPU": "False"}, config)
    assert spec.lmcache.env == {"LMCACHE_CACHE_POLICY": "noop", "LMCACHE_LOCAL_CPU": "False"}
    # What LMCache reads besides its settings is for every process that has LMCache in it.
    assert spec.env == {"LMCACHE_LOG_LEVEL": "DEBUG", "NCCL_DEBUG": "INFO"}
    assert sources["LMCACHE_CACHE_POLICY"] == str(config)


@pytest.mark.parametrize("table", ["env", "lmcache.env"])
@pytest.mark.parametrize("shell", [False, True])
def test_lmcaches_own_file_is_read_for_the_plan_and_no_unit_gets_its_name(
    toml: Toml, tmp_path: Path, table: str, shell: bool
) -> None:
    (tmp_path / "lmcache.yaml").write_text("chunk_size: 512\n")
    (tmp_path / "other.yaml").write_text("chunk_size: 128\n")
    config = toml(f'[{table}]\nLMCACHE_CONFIG_FILE = "lmcache.yaml"')
    environ = {"LMCACHE_CONFIG_FILE": str(tmp_path / "other.yaml")} if shell else {}
    spec = load_spec({}, environ, config)
    assert spec.lmcache.chunk_size == (128 if shell else 512)
    assert (spec.env, spec.lmcache.env) == ({}, {})


def test_a_bad_lmcache_variable_is_refused() -> None:
    assert (
        "LMCACHE_MAX_LOCAL_CPU_SIZE=lots" in refusal(environ={"LMCACHE_MAX_LOCAL_CPU_SIZE": "lots"}).message
    )


# ---- keys, files, types -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("prot = 1", "prot", "port"),
        ("[lmcache]\nchunksize = 1", "lmcache.chunksize", "chunk_size"),
        ("[lmcahce]\nmode = 'mp'", "lmcahce", "lmcache"),
    ],
)
def test_an_unknown_key_gets_the_nearest_one(toml: Toml, text: str, key: str, near: str) -> None:
    config = toml(text)
    error = refusal(config=config)
    assert error.message == f"unknown key '{key}' (in {config})"
    assert error.hint == f"did you mean '{near}'?"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("tensor_parallel_size", "set tp"),
        ("tensor-parallel-size", "set tp"),
        ("max_model_len", 'engine_args = ["--max-model-len", "VALUE"]'),
        ("gpu-memory-utilization", 'engine_args = ["--gpu-memory-utilization", "VALUE"]'),
    ],
)
def test_a_key_of_vllms_says_where_it_goes(tmp_path: Path, key: str, hint: str) -> None:
    config = tmp_path / "dynamoctl.toml"
    config.write_text(f"{key} = 2\n")
    with pytest.raises(SpecError, match=f"unknown key '{key}'") as caught:
        load_spec({}, {}, config)
    assert hint in caught.value.hint


def test_a_yaml_file_is_told_what_to_become(tmp_path: Path) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text("model: m\n")
    with pytest.raises(SpecError, match="not valid TOML") as caught:
        load_spec({}, {}, config)
    assert "LMCACHE_CONFIG_FILE" in caught.value.hint


def test_text_that_is_no_toml_is_refused_with_its_line(toml: Toml) -> None:
    config = toml("port = 1\nname =\n")
    error = refusal(config=config)
    assert error.message.startswith(f"{config} is not valid TOML: ")
    assert "line 2" in error.message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_bytes(b"name = '\xff'")
    assert refusal(config=config).message.endswith("it is not UTF-8 text")


def test_a_file_that_is_nested_without_end(toml: Toml) -> None:
    assert refusal(config=toml("a = " + "[" * 100_000)).message.endswith("is nested too deeply")


@pytest.mark.parametrize("name", [".", "missing.toml"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    assert refusal(config=tmp_path / name).message.startswith("cannot read ")


WRONG_IN_THE_FILE = [
    ("workers = 'two'", "workers: input should be a valid integer, not 'two'"),
    ("workers = '2'", "workers: input should be a valid integer, not '2'"),
    ("workers = true", "workers: input should be a valid integer, not True"),
    ("workers = 0", "workers: input should be greater than or equal to 1, not 0"),
    ("port = 70000", "port: input should be less than or equal to 65535, not 70000"),
    ("timeout_s = inf", "timeout_s: input should be a finite number, not inf"),
    ("timeout_s = 0", "timeout_s: input should be greater than 0, not 0"),
    ("model = 1", "model: input should be a valid string, not 1"),
    ("model = ''", "model: string should have at least 1 character, not ''"),
    ("host = ''", "host: string should have at least 1 character, not ''"),
    ("engine_args = '--a'", "engine_args: must be a list, not '--a'"),
    ("gpus = 1.5", "gpus: must be a list, not 1.5"),
    ("mode = 'both'", "mode: 'both' is not one of 'agg' or 'disagg'"),
    ("device = 'gpu'", "device: 'gpu' is not one of 'auto', 'cuda' or 'cpu'"),
    ("env = 1", "env: must be a table, as in [env], not 1"),
    ("lmcache = 1", "lmcache: must be a table, as in [lmcache], not 1"),
    ("lmcache = false", "lmcache: must be a table, as in [lmcache], not False"),
    ("[lmcache]\nenv = 1", "lmcache.env: must be a table, as in [lmcache.env], not 1"),
    ("[lmcache]\nenabled = 1", "lmcache.enabled: input should be a valid boolean, not 1"),
    (
        "[lmcache]\nchunk_size = 0",
        "lmcache.chunk_size: input should be greater than or equal to 1, not 0",
    ),
    ("[lmcache]\nmode = 'x'", "lmcache.mode: 'x' is not one of 'auto', 'inproc' or 'mp'"),
    ("engine_args = ['a\\u0000']", "engine_args.0: a NUL character cannot be passed to a process"),
    ("[env]\n'A=B' = '1'", "env: 'A=B' is not a valid name of an environment variable"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_IN_THE_FILE)
def test_a_wrong_value_in_the_file_is_named_with_the_file(toml: Toml, text: str, message: str) -> None:
    config = toml(text.replace("'a\\u0000'", '"a\\u0000"'))
    assert refusal(config=config).message == f"{message} (in {config})"


def test_how_to_turn_lmcache_off_in_the_file(toml: Toml) -> None:
    assert "enabled = false" in refusal(config=toml("lmcache = false")).hint


@pytest.mark.parametrize(
    "flags", [{"lmcache.enabled": True}, {"lmcache.mode": "mp"}, {"lmcache.chunk_size": 256}]
)
def test_a_flag_does_not_hide_that_lmcache_is_no_table(toml: Toml, flags: dict[str, Any]) -> None:
    config = toml("lmcache = 1")
    error = refusal(flags, {"ENABLE_LMCACHE": "1", "LMCACHE_LOCAL_CPU": "True"}, config)
    assert error.message == f"lmcache: must be a table, as in [lmcache], not 1 (in {config})"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 0}, "--port: input should be greater than or equal to 1, not 0"),
        ({"router_mode": "best"}, "--router-mode: 'best' is not one of {}"),
        (
            {"gpus": "foo"},
            "--gpus: 'foo' is not a GPU index or UUID: separate several with commas, as in 0,1 or 0-3,6",
        ),
        (
            {"lmcache.chunk_size": -1},
            "--lmcache-chunk-size: input should be greater than or equal to 1, not -1",
        ),
    ],
)
def test_a_wrong_flag_is_not_blamed_on_the_file(toml: Toml, flags: dict[str, Any], message: str) -> None:
    config = toml("port = 9000\ngpus = [0]\n[lmcache]\nchunk_size = 128")
    routers = ", ".join(f"'{mode}'" for mode in ROUTER_MODES[:-1]) + f" or '{ROUTER_MODES[-1]}'"
    assert refusal(flags, {}, config).message == message.format(routers)


def test_a_wrong_item_of_a_flag_is_named_by_the_flag() -> None:
    assert refusal({"decode_args": ("a\0",)}).message.startswith("--decode-args: a NUL character")
    assert refusal({"engine_args": ("a\0",)}).message.startswith("the arguments after --: a NUL character")


def test_a_count_that_the_file_makes_wrong_is_named_with_the_file(toml: Toml) -> None:
    config = toml("gpus = [0, 1, 2]")
    error = refusal({"workers": 2}, config=config)
    assert error.message.startswith("gpus: 3 named, but 2 workers with tensor parallelism 1 take 2")
    assert error.message.endswith(f"(in {config})")


def test_a_wrong_variable_is_not_blamed_on_the_file(toml: Toml) -> None:
    error = refusal({}, {"LMCACHE_CHUNK_SIZE": "70000"}, toml("[lmcache]\nchunk_size = 128"))
    assert error.message.endswith("not 70000 (from the environment)")


def test_a_wrong_value_in_the_environment_table_is_not_repeated_for_it_may_be_secret(toml: Toml) -> None:
    error = refusal(config=toml("[env]\nPIN = 31415926"))
    assert "31415926" not in error.message + error.hint
    assert "env.PIN" in error.message


@pytest.mark.parametrize("table", ["env", "lmcache.env"])
def test_lmcaches_settings_in_the_file_are_checked_like_those_in_the_environment(
    toml: Toml, table: str
) -> None:
    assert "LMCACHE_LOCAL_CPU=yes" in refusal(config=toml(f"[{table}]\nLMCACHE_LOCAL_CPU = 'yes'")).message
    error = refusal(config=toml(f"[{table}]\nLMCACHE_MAX_LOCAL_CPU_SIZE = '20'"))
    assert "set lmcache.cpu_gb" in error.message


def test_other_variables_do_not_belong_to_lmcache(toml: Toml) -> None:
    error = refusal(config=toml("[lmcache.env]\nHF_HOME = '/data'"))
    assert "HF_HOME is not an LMCache setting: put it into [env]" in error.message


# ---- names, modes, GPUs -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "qwen-prod", "a--b", "x" * 32])
def test_names(name: str) -> None:
    assert load_spec({"name": name}, {}).name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "é", "a\n", "x" * 33])
def test_names_that_would_not_fit_everywhere(name: str) -> None:
    assert refusal({"name": name}).message.startswith("--name: a name has 1 to 32 lower-case letters")


@pytest.mark.parametrize(
    "flags", [{"decode": 2}, {"prefill": 2}, {"decode_args": ("--a",)}, {"prefill_args": ("--a",)}]
)
def test_agg_has_no_decode_and_prefill_workers(flags: dict[str, Any]) -> None:
    field = next(iter(flags))
    message = f"{flag_of(field)}: only `up disagg` has prefill and decode workers"
    assert refusal({"mode": "agg", **flags}).message == message


def test_disagg_has_no_plain_workers() -> None:
    assert refusal({"mode": "disagg", "workers": 2}).message.startswith("--workers: `up disagg` has decode")


@pytest.mark.parametrize("mode", ROUTER_MODES)
def test_router_modes(mode: str) -> None:
    assert load_spec({"router_mode": mode}, {}).router_mode == mode


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ("0", ("0",)),
        (3, ("3",)),
        ("00", ("0",)),
        (" 0 ", ("0",)),
        (["0"], ("0",)),
        ("MIG-GPU-8932f937/1/0", ("MIG-GPU-8932f937/1/0",)),
    ],
)
def test_ways_to_name_a_gpu(given: object, gpus: tuple[str, ...]) -> None:
    assert load_spec({"gpus": given}, {}).gpus == gpus


@pytest.mark.parametrize("nonsense", ["foo", "0,,1", "-1", "0,", "1.5", "0 1", "GPU", "1000", "\u0663", "²"])
def test_what_names_no_gpu(nonsense: str) -> None:
    message = refusal({"gpus": nonsense}).message
    assert message.startswith("--gpus: '")
    assert "is not a GPU index or UUID" in message


@pytest.mark.parametrize("nothing", ["", "  "])
def test_naming_no_gpu_at_all(nothing: str) -> None:
    message = "--gpus: no GPU given: give indices or UUIDs, as in 0,1 or 0-3, or leave it out"
    assert refusal({"gpus": nothing}).message == message


def test_a_truth_names_no_gpu() -> None:
    assert refusal({"gpus": True}).message == "--gpus: true is not a GPU index or UUID"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"gpus": "0,1"},
            "--gpus: 2 named, but 1 worker with tensor parallelism 1 takes 1:"
            " name 1, or add --workers 2 or --tp 2",
        ),
        (
            {"gpus": "0", "mode": "disagg"},
            "--gpus: 1 named, but 1 decode + 1 prefill with tensor parallelism 1 take 2:"
            " name more, or one twice to share it (as in --gpus 0,0)",
        ),
        (
            {"gpus": "0,1,2", "mode": "disagg"},
            "--gpus: 3 named, but 1 decode + 1 prefill with tensor parallelism 1 take 2:"
            " name fewer, or ask for more workers",
        ),
        (
            {"gpus": "0", "workers": 2},
            "--gpus: 1 named, but 2 workers with tensor parallelism 1 take 2:"
            " name more, or one twice to share it (as in --gpus 0,0)",
        ),
    ],
)
def test_a_count_of_gpus_that_does_not_fit_says_what_would(flags: dict[str, Any], message: str) -> None:
    assert refusal(flags).message == message


def test_named_gpus_and_the_cpu_exclude_each_other() -> None:
    message = "--device: GPUs are named, so the device cannot be the CPU"
    assert refusal({"gpus": "0", "device": "cpu"}).message == message


# ---- properties -------------------------------------------------------------------------------

KEYS = [*DeploymentSpec.model_fields, "lmcache", "env", "nonsense"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["0,1", "mp", "cpu"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["enabled", "env", "mode", "chunk_size"]) | st.text(), inner, max_size=3
    ),
    max_leaves=6,
)
VARIABLES = ["ENABLE_LMCACHE", "LMCACHE_CHUNK_SIZE", "LMCACHE_LOCAL_CPU", "LMCACHE_EXTRA_CONFIG", "LMCACHE_X"]


@given(
    flags=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5),
    cache=st.dictionaries(st.sampled_from(["lmcache.mode", "lmcache.chunk_size", "lmcache.env"]), VALUES),
    environ=st.dictionaries(
        st.sampled_from(VARIABLES) | st.text().map("LMCACHE_".__add__),
        st.text() | st.sampled_from(["1", "256", "{}", "yes", "20GB", "9" * 5000]),
        max_size=3,
    ),
)
def test_whatever_is_asked_for_there_is_a_spec_or_an_error_in_words(
    flags: dict[str, Any], cache: dict[str, Any], environ: dict[str, str]
) -> None:
    with suppress(SpecError):
        spec = load_spec({**flags, **cache}, environ)
        assert DeploymentSpec.model_validate(spec.model_dump()) == spec


@given(st.text() | st.binary())
def test_whatever_is_in_the_file_there_is_a_spec_or_an_error_in_words(text: str | bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "dynamoctl.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        with suppress(SpecError):
            assert load_spec({}, {}, file).name


@given(st.text())
def test_whatever_a_switch_is_set_to_it_is_on_or_off_or_an_error(value: str) -> None:
    with suppress(SpecError):
        assert switch("X", value) in (True, False)
