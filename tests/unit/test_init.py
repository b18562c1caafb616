"""`init`: a file for this machine, from which `up` makes the same plan as from the flags."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dynamoctl import policies
from dynamoctl.cli import run
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.load import load_spec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.config.template import toml
from dynamoctl.errors import SpecError
from dynamoctl.host import facts, models
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from tests.unit.hosts import host, uuid

Machine = Callable[..., None]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(models, "here", lambda: [policies.BUILTIN_MODEL])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("ENABLE_LMCACHE", "LMCACHE_CHUNK_SIZE", "LMCACHE_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make this a machine with so many GPUs."""

    def make(gpus: int, **others: Any) -> None:
        monkeypatch.setattr(facts, "gather", lambda *_args, **_others: host(gpus, **others))

    return make


def written(*words: str) -> dict[str, Any]:
    assert run(["init", *words]) == 0
    return tomllib.loads(Path("dynamoctl.toml").read_text(encoding="utf-8"))


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["up", "--dry-run", "--json", *words]) == 0
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    for setting in body["lmcache_settings"]:
        del setting["source"]  # that it is from the file is not in the flags
    return body


# ---- what suits a machine -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "words", "mode", "named"),
    [
        (0, [], "agg", None),
        (1, [], "agg", [0]),
        (2, [], "disagg", [0, 1]),
        (8, [], "disagg", [0, 1]),
        (8, ["--tp", "4"], "disagg", list(range(8))),
        (4, ["--tp", "4"], "agg", [0, 1, 2, 3]),
        (2, ["agg"], "agg", [0]),
        (2, ["--workers", "2"], "agg", [0, 1]),
        (4, ["--decode", "3"], "disagg", [0, 1, 2, 3]),
        (1, ["disagg"], "disagg", [0, 0]),
        (2, ["--device", "cpu"], "agg", None),
        (2, ["--engine", "mocker"], "agg", None),
        (0, ["disagg"], "disagg", None),
        (0, ["--gpus", "3,2"], "disagg", [3, 2]),
        (4, ["--gpus", "2"], "agg", [2]),
        (1, ["--gpus", uuid(0)], "agg", [uuid(0)]),
        (0, ["--device", "cuda"], "agg", None),
    ],
)
def test_mode_and_gpus(
    machine: Machine, gpus: int, words: list[str], mode: str, named: list[int] | None
) -> None:
    machine(gpus)
    values = written(*words)
    assert (values["mode"], values.get("gpus")) == (mode, named)


@pytest.mark.parametrize(
    ("visible", "mode", "named"),
    [(("3",), "agg", [0]), (("3", "2"), "disagg", [0, 1]), (("-1",), "agg", None), ((), "agg", None)],
)
def test_gpus_that_are_hidden_do_not_count(
    machine: Machine, visible: tuple[str, ...], mode: str, named: list[int] | None
) -> None:
    machine(4, visible=visible)
    values = written()
    assert (values["mode"], values.get("gpus")) == (mode, named)


def test_it_says_what_it_saw_and_what_to_run_next(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(4, cores=32)
    assert run(["init"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "32 cores, 256 GiB of memory (200 free) and 4 GPUs (NVIDIA H100 80GB HBM3, 80 GiB)" in shown.err
    assert "2 of 4 GPUs are used" in shown.err
    assert "the first start downloads Qwen/Qwen3-0.6B from the hub" in shown.err
    assert shown.err.endswith(
        "wrote dynamoctl.toml: disagg on GPUs, Qwen/Qwen3-0.6B\nnext: dynamoctl up disagg\n"
    )


def test_json(machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machine(1)
    assert run(["init", "-o", "a file.toml", "--json"]) == 0
    shown = capsys.readouterr()
    body = json.loads(shown.out)
    assert (body["schema"], body["ok"], shown.err) == ("dynamoctl/init/v1", True, "")
    assert body["path"] == str(tmp_path / "work" / "a file.toml")
    assert (body["mode"], body["device"], body["model"]) == ("agg", "cuda", "Qwen/Qwen3-0.6B")
    assert body["next"] == "dynamoctl up agg --config 'a file.toml'"
    assert body["gpus"] == [{"gpu": "0", "name": "NVIDIA H100 80GB HBM3", "memory_total_mib": 81559}]


# ---- the file -----------------------------------------------------------------------------------

SAME_PLAN = [
    (0, []),
    (0, ["agg"]),
    (0, ["disagg", "--port", "9000", "-n", "other"]),
    (0, ["agg", "--no-lmcache", "--timeout", "60.5", "--drain", "0"]),
    (0, ["disagg", "--engine", "mocker", "--router-mode", "kv"]),
    (0, ["agg", "--workers", "2", "--migration-limit", "0"]),
    (1, []),
    (1, ["agg", "--lmcache-cpu-gb", "20GB", "--lmcache-chunk-size", "512"]),
    (1, ["agg", "--lmcache-cpu-gb", "auto", "--lmcache-mode", "mp"]),
    (1, ["disagg", "--gpus", "0,0", "--model", "/models/a \"b\" \\c"]),
    (1, ["agg", "--lmcache-disk", "kv", "--lmcache-disk-gb", "100", "--lmcache-remote", "redis://:pw@h:1"]),
    (1, ["agg", "--lmcache-gds", "~/kv", "--served-model-name", "é\t"]),
    (2, []),
    (8, ["disagg", "--tp", "2", "--decode", "2", "--prefill", "2", "--decode-args", "--max-num-seqs '6 4'"]),
    (2, ["disagg", "--start", "overlapped", "--host", "0.0.0.0", "--", "--max-model-len", "2048"]),
]  # fmt: skip


@pytest.mark.parametrize(("gpus", "words"), SAME_PLAN)
def test_the_plan_from_the_file_is_the_plan_from_the_flags(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    words: list[str],
) -> None:
    machine(gpus)
    values = written(*words)
    mode = [] if values["mode"] in words else [values["mode"]]
    by_flags = plan(capsys, *mode, *words)
    # Read elsewhere: a path counts from where `init` was.
    monkeypatch.chdir(tmp_path)
    assert plan(capsys, "--config", "work/dynamoctl.toml") == by_flags


@pytest.mark.parametrize(("gpus", "words"), SAME_PLAN)
def test_the_file_passes_its_own_schema(
    machine: Machine, capsys: pytest.CaptureFixture[str], gpus: int, words: list[str]
) -> None:
    machine(gpus)
    values = written(*words)
    capsys.readouterr()
    assert run(["init", "--schema"]) == 0
    validator = Draft7Validator(json.loads(capsys.readouterr().out))
    assert [error.message for error in validator.iter_errors(values)] == []


COMMENTED = re.compile(r"#(?=\w)")


@pytest.mark.parametrize(("gpus", "mode"), [(0, "agg"), (2, "disagg")])
def test_every_key_is_there_and_a_commented_one_may_be_taken_in(
    machine: Machine, tmp_path: Path, gpus: int, mode: str
) -> None:
    machine(gpus)
    values = written(mode)
    lines = Path("dynamoctl.toml").read_text(encoding="utf-8").splitlines()
    cache = lines.index("[lmcache]")
    keys = {*values, *(f"lmcache.{name}" for name in values["lmcache"])} - {"lmcache"}
    refused = {}
    for number, line in enumerate(lines):
        if not COMMENTED.match(line):
            continue
        text = "\n".join([*lines[:number], line[1:], *lines[number + 1 :]])
        (key,) = tomllib.loads(line[1:])
        path = f"lmcache.{key}" if number > cache else key
        assert path not in keys
        keys.add(path)
        (tmp_path / "one.toml").write_text(text, encoding="utf-8")
        try:
            load_spec({}, {}, tmp_path / "one.toml")
        except SpecError as error:
            refused[path] = error.message
    everything = {*DeploymentSpec.model_fields, *(f"lmcache.{name}" for name in LMCacheSpec.model_fields)}
    assert keys == everything - {"lmcache"}
    # These go together, which is no matter of their type.
    hosts = {"etcd_endpoints", "roles", "advertise"}
    assert refused.keys() == {"lmcache.disk", "lmcache.disk_gb"} | hosts
    text = re.sub(r"^#(?=\w)", "", "\n".join(lines), flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(text, encoding="utf-8")
    every_role = "frontend,agg" if mode == "agg" else "frontend,decode,prefill"
    flags = {"gpus": "0,1" if gpus else None, "discovery": "etcd", "roles": every_role}
    assert load_spec(flags, {}, tmp_path / "all.toml").lmcache.disk_gb == 100


def test_what_is_not_set_has_its_default(machine: Machine) -> None:
    """With every commented line taken in, but for examples, nothing changes."""
    machine(0)
    written()
    text = Path("dynamoctl.toml").read_text(encoding="utf-8")
    before = load_spec({}, {}, Path("dynamoctl.toml"))
    lines = [
        line[1:] if COMMENTED.match(line) and "  # an example" not in line else line
        for line in text.splitlines()
    ]
    Path("dynamoctl.toml").write_text("\n".join(lines), encoding="utf-8")
    after = load_spec({}, {}, Path("dynamoctl.toml"))
    assert after.lmcache.cpu_gb == 1.0  # "what is taken here", on a CPU
    lmcache = after.lmcache.model_copy(update={"cpu_gb": None})
    assert after.model_copy(update={"lmcache": lmcache}) == before


def test_a_file_that_is_there_is_left_alone(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine(0)
    Path("dynamoctl.toml").write_text("port = 1\n", encoding="utf-8")
    assert run(["init"]) == 2
    shown = capsys.readouterr().err
    assert "dynamoctl.toml is there already" in shown
    assert "--force" in shown
    assert Path("dynamoctl.toml").read_text(encoding="utf-8") == "port = 1\n"
    assert run(["init", "--json"]) == 2
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["ok"], body["error"]["code"]) == ("dynamoctl/init/v1", False, 2)
    assert "port" not in written("--force")


@pytest.mark.parametrize("path", ["no/such/folder/x.toml", "."])
def test_a_file_that_cannot_be_written(
    machine: Machine, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    machine(0)
    assert run(["init", "--force", "-o", path]) == 2
    assert f"cannot write {path}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "zero"], "--gpus: 'zero' is not a GPU"),
        (["agg", "--decode", "2"], "only `up disagg` has"),
        (["--lmcache-mode", "inproc"], "does not work on a CPU"),
        (["--model", "\udcff"], "UTF-8 text"),
        (["--schema", "--json"], "leave --json out"),
        (["-o", "-", "--json"], "leave --json out"),
        (["--config", "x.toml"], "No such option"),
    ],
)
def test_bad_input_writes_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    machine(0)
    assert run(["init", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
    assert not Path("dynamoctl.toml").exists()


def test_a_name_that_is_no_text(machine: Machine, tmp_path: Path) -> None:
    machine(0)
    assert run(["init", "-o", "a\udcff\x01.toml"]) == 0
    assert "--config 'a??.toml'" in Path("a\udcff\x01.toml").read_text(encoding="utf-8")
    assert load_spec({}, {}, Path("a\udcff\x01.toml")).mode == "agg"


def test_to_stdout(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine(0)
    assert run(["init", "-o", "-"]) == 0
    shown = capsys.readouterr()
    assert tomllib.loads(shown.out)["mode"] == "agg"
    assert "next: dynamoctl up agg\n" in shown.err
    assert list(Path().iterdir()) == []


def test_a_file_with_a_password_is_for_its_owner_alone(machine: Machine) -> None:
    machine(0)
    written("--lmcache-remote", "redis://user:hunter2@host:6379")
    assert stat.S_IMODE(Path("dynamoctl.toml").stat().st_mode) == 0o600
    written("--force", "--lmcache-remote", "redis://host:6379", "-o", "dynamoctl.toml")
    Path("dynamoctl.toml").chmod(0o644)
    written("--force", "--lmcache-remote", "redis://user:hunter2@host:6379")
    assert stat.S_IMODE(Path("dynamoctl.toml").stat().st_mode) == 0o600


def test_the_schema_is_named_where_it_lies_beside(machine: Machine) -> None:
    machine(0)
    assert run(["init", "--schema", "-o", "dynamoctl.schema.json"]) == 0
    written()
    first = Path("dynamoctl.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "#:schema ./dynamoctl.schema.json"
    assert run(["init", "--schema", "-o", "dynamoctl.schema.json"]) == 2


# ---- values -------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert tomllib.loads(f"key = {toml(value)}") == {"key": value}
