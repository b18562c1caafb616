"""The engine's arguments are read as the engine's own parsers read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.planner import engine_options, option_tables
from dynamoctl.planner.arguments import argument, is_given
from dynamoctl.planner.engine_options import Engine, Given

from tests.unit.fresh import last_line_with_vllm
from tests.unit.installed import of_pyproject

DOCS = Path(__file__).parents[2] / "docs"

# Words -> the options that they are, each as its first name and its values.
SPELLINGS: dict[str, list[tuple[str, ...]]] = {
    "--tensor-parallel-size 2": [("--tensor-parallel-size", "2")],
    "--tensor_parallel_size=2": [("--tensor-parallel-size", "2")],
    "--tensor_par 2": [("--tensor-parallel-size", "2")],
    "-tp 2": [("--tensor-parallel-size", "2")],
    "-tp=2": [("--tensor-parallel-size", "2")],
    "-t 2": [("--tensor-parallel-size", "2")],
    "-pcp 2": [("--prefill-context-parallel-size", "2")],
    "-O3": [("--optimization-level", "3")],
    "-O 2": [("--optimization-level", "2")],
    "-O=2": [("--optimization-level", "2")],
    "-cc.mode 3": [("--compilation-config", "mode=3")],
    "--kv-transfer-config.kv_role x": [("--kv-transfer-config", "kv_role=x")],
    "--kv_transfer-config.a.b=1 --seed 2 --kv-transfer-config.c+ d": [
        ("--seed", "2"),
        ("--kv-transfer-config", "a.b=1, c+=d"),
    ],
    "--kv-tr.kv_role -x": [("--kv-transfer-config", "kv_role=-x")],
    "--device-memory-utilization 0.5": [("--gpu-memory-utilization", "0.5")],
    "--served-model-name a b --seed 1": [("--served-model-name", "a", "b"), ("--seed", "1")],
    "--no-enforce-eager --no-enable-lor": [("--enforce-eager",), ("--enable-lora",)],
    "--hf-token": [("--hf-token",)],
    "--hf-token --seed 1": [("--hf-token",), ("--seed", "1")],
    "--endpoint x": [("--endpoint", "x")],
    "--dyn-endpoint-types=chat": [("--endpoint-types", "chat")],
    "--connector lmcache nixl": [("--connector", "lmcache", "nixl")],
    # Only the parser for routers, which comes before vLLM's, takes the beginning of an option that both have.
    "--kv-o 3": [("--router-kv-overlap-score-weight", "3")],
    "--enable-s": [("--enable-session-prefix-index",)],
    "--config f.yaml --seed 1": [("--config", "f.yaml"), ("--seed", "1")],
    "--config=f": [("--config-format", "f")],
    "--watermark -1": [("--watermark", "-1")],
}


def taken(words: str, engine: Engine = "vllm") -> list[tuple[str, ...]]:
    return [(one.option, *one.values) for one in engine_options.parse(words.split(), engine).given]


@pytest.mark.parametrize("words", SPELLINGS)
def test_an_option_is_known_in_each_of_its_spellings(words: str) -> None:
    assert taken(words) == SPELLINGS[words]
    assert not engine_options.parse(words.split()).unknown


@pytest.mark.parametrize("words", ["--discovery_backend etcd", "--discovery-back etcd", "-tp2", "--x", "x"])
def test_dynamos_own_options_have_one_spelling_and_other_words_are_left(words: str) -> None:
    """Dynamo's own parser takes no beginnings, and no underscores."""
    assert not taken(words)
    assert engine_options.parse(words.split()).unknown[0].replace("_", "-") == words.split()[0].replace(
        "_", "-"
    )


@pytest.mark.parametrize("words", ["--tool-call-parser hermes", "--tool_call hermes"])
def test_an_option_of_the_api_server_alone_is_known_as_one(words: str) -> None:
    assert engine_options.parse(words.split()).of_server == (
        Given("--tool-call-parser", "--tool-call-parser", ("hermes",)),
    )


def test_the_mocker_has_options_of_its_own() -> None:
    assert taken("--speedup 3 --router-m kv", "mocker") == [("--speedup-ratio", "3"), ("--router-mode", "kv")]
    assert engine_options.parse(["--enforce-eager"], "mocker").unknown == ("--enforce-eager",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data-par", "2"), "ambiguous option: --data-par could match --data-parallel-size"),
        (("--h=hunter2",), "ambiguous option: --h could match"),
        (("--max-model-len",), "argument --max-model-len: expected one argument"),
        (("--kv-transfer-config.kv_role",), "--kv-transfer-config.kv_role has no value"),
    ],
)
def test_what_the_parsers_refuse_is_refused_and_no_value_is_repeated(
    words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        engine_options.parse(words)
    assert message in caught.value.message
    assert "hunter2" not in caught.value.message


def test_the_last_value_of_an_option_counts_however_it_is_spelled() -> None:
    words = ("--block-size", "8", "--kv_cache_dtype=fp8", "--block_si", "16", "--no-enforce-eager")
    assert argument(words, "--block-size") == "16"
    assert argument(words, "--kv-cache-dtype") == "fp8"
    assert argument(words, "--dtype") is None
    assert argument(("--migration-limit", "3"), "--migration-limit") == "3"  # the frontend's
    assert is_given(words, "--dtype", "--kv-cache-dtype")
    assert not is_given(words, "--enforce-eager")


_READ_BY_THE_PACKAGES = """
import argparse, json, sys
sys.path.insert(0, {docs!r})
import option_tables

class Note(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        words = [values] if isinstance(values, str) else values if isinstance(values, list) else []
        given.append([next(one for one in self.option_strings if one.startswith("--")), len(words)])

made = option_tables.parsers()
for parser in made.values():
    for action in parser._actions:
        action.__class__, action.type, action.choices = Note, None, None
read = []
for words in {words!r}:
    given, rest = [], words.split()
    try:
        for name in ("DYNAMO", "ROUTER"):
            _, rest = made[name].parse_known_args(rest)
        made["VLLM"].parse_args(rest)
    except SystemExit:
        given = None
    read.append(given)
print(json.dumps([option_tables.text(), read]))
"""


@of_pyproject
@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_packages_have_these_options_and_read_them_so() -> None:
    asked = [words for words in SPELLINGS if not words.startswith("--config ")]
    refused = [
        "--data-par 2",
        "--max-model-len",
        "--discovery_backend etcd",
        "-tp2",
        "--tool-call-parser x",
        "x",
    ]
    text, read = json.loads(last_line_with_vllm(
        _READ_BY_THE_PACKAGES.format(docs=str(DOCS), words=asked + refused)
    ))  # fmt: skip
    assert text == Path(option_tables.__file__).read_text(), "run python docs/option_tables.py"
    assert dict(zip(asked + refused, read, strict=True)) == {
        **{words: [[name, len(values)] for name, *values in SPELLINGS[words]] for words in asked},
        **dict.fromkeys(refused),
    }


def test_no_option_is_in_two_tables() -> None:
    tables = (option_tables.DYNAMO, option_tables.ROUTER, option_tables.VLLM, option_tables.SERVE)
    rows = [row for table in tables for row in table.values()]
    names = [name for row in rows for name in row.replace("/", " ").split()]
    assert len(set(names)) == len(names)
