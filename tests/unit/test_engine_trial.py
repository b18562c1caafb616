"""The engine's own parser and configuration classes are asked what they make of a plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from dynamoctl.checks import trials
from dynamoctl.checks.base import Finding, Level
from dynamoctl.facts import ModelFacts
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.processes import engine_trial, process_control
from pydantic import BaseModel, Field, ValidationError

from tests.unit.hosts import FOLDER_MODEL, HUB_MODEL, host, plan

Asked = list[tuple[list[str], Mapping[str, str]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What would be asked; the engine complains of `--bad` and of LMCACHE_ENABLE_P2P."""
    found: Asked = []

    def run_script(
        argv: list[str], environ: Mapping[str, str], _cwd: Path, on_line: Callable[[str], None]
    ) -> tuple[int, list[str]]:
        found.append((argv[3:], environ))
        on_line("INFO some line of the engine's\n")
        for name, words, _ in json.loads(argv[4]) if argv[3] == "arguments" else []:
            if "--bad" in words:
                on_line(f"{engine_trial.MARK}{json.dumps([name, 'unrecognized arguments: --bad'])}\n")
        if argv[3] == "lmcache" and "LMCACHE_ENABLE_P2P" in environ:
            on_line(f"{engine_trial.MARK}{json.dumps(['', 'assert self.enable_controller'])}\n")
        return 0, []

    monkeypatch.setattr(process_control, "run_script", run_script)
    monkeypatch.setattr(trials, "missing_packages", lambda _: [])
    return found


def arguments(made: DeploymentPlan, model: ModelFacts) -> list[Finding]:
    return trials.ARGUMENTS.run(made, host(), model)


def test_one_worker_of_each_role_is_asked_for(asked: Asked) -> None:
    made = plan(4, mode="disagg", decode=2, prefill=2, engine_args=("--max-num-seqs", "8"))
    assert arguments(made, HUB_MODEL) == []
    ((_, workers), environ) = asked[0]
    assert [name for name, _, _ in json.loads(workers)] == ["prefill-0", "decode-0"]
    assert all(not is_here and words[0] == "--model" for _, words, is_here in json.loads(workers))
    assert "HF_HUB_OFFLINE" not in environ or "HF_HUB_OFFLINE" in os.environ
    assert trials.ARGUMENTS.ok(made, host(), HUB_MODEL) == "the engine takes them"


def test_what_the_engine_would_not_take_is_an_error(asked: Asked) -> None:
    made = plan(2, mode="disagg", decode_args=("--bad",))
    (finding,) = arguments(made, HUB_MODEL)
    assert finding.level is Level.ERROR
    assert finding.what == "decode-0 would exit: unrecognized arguments: --bad"


def test_a_model_that_is_here_is_asked_for_without_the_hub(asked: Asked) -> None:
    model = ModelFacts("/m", "m", folder="/m")
    assert arguments(plan(1, model_facts=model), model) == []
    ((_, workers), environ) = asked[0]
    assert json.loads(workers)[0][2] is True
    assert environ["HF_HUB_OFFLINE"] == "1"


def test_nothing_is_asked_about_a_plan_without_the_user(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made, model in (
        (plan(), FOLDER_MODEL),
        (plan(mode="disagg"), FOLDER_MODEL),
        (plan(engine="mocker", engine_args=("--speedup-ratio", "2")), FOLDER_MODEL),
    ):
        assert (arguments(made, model), trials.ARGUMENTS.ok(made, host(), model)) == ([], "")
    made = plan(engine_args=("--max-num-seqs", "8"))
    assert arguments(made, FOLDER_MODEL) == []
    assert len(asked) == 1
    monkeypatch.setattr(trials, "missing_packages", lambda _: ["vllm"])
    assert (arguments(made, FOLDER_MODEL), trials.ARGUMENTS.ok(made, host(), FOLDER_MODEL)) == ([], "")


def test_an_engine_that_cannot_be_asked_says_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_control, "run_script", lambda *_: (1, ["Traceback", "ImportError: no torch"]))
    monkeypatch.setattr(trials, "missing_packages", lambda _: [])
    (finding,) = arguments(plan(1), HUB_MODEL)
    assert finding.what == "the engine's arguments cannot be parsed: ImportError: no torch"


# ---- LMCache's settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "fields", "found"),
    [
        ({}, {}, None),
        ({"LMCACHE_LOG_LEVEL": "INFO"}, {}, None),
        ({"LMCACHE_SAVE_DECODE_CACHE": "True"}, {}, []),
        ({"LMCACHE_ENABLE_P2P": "True"}, {}, ["LMCache rejects them: assert self.enable_controller"]),
        ({"LMCACHE_ENABLE_P2P": "True"}, {"mode": "mp"}, None),
        ({"LMCACHE_ENABLE_P2P": "True"}, {"enabled": False}, None),
    ],
)
def test_lmcache_is_asked_about_settings_that_the_user_gives(
    asked: Asked, env: dict[str, str], fields: dict[str, Any], found: list[str] | None
) -> None:
    made = plan(2, mode="disagg", lmcache={"env": env, **fields})
    findings = trials.SETTINGS.run(made, host(), HUB_MODEL)
    assert [finding.what for finding in findings] == (found or [])
    assert bool(asked) == (found is not None)
    assert bool(trials.SETTINGS.ok(made, host(), HUB_MODEL)) == (found is not None)


# ---- the program that asks ------------------------------------------------------------------


def complaints(*words: str, **environ: str) -> list[list[str]]:
    program = [sys.executable, "-m", engine_trial.__name__, *words]
    done = subprocess.run(program, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(engine_trial.MARK)]
    return [json.loads(line.removeprefix(engine_trial.MARK)) for line in lines]


@pytest.mark.packages
@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"LMCACHE_SAVE_DECODE_CACHE": "True"}, ""),
        ({"LMCACHE_ENABLE_P2P": "True"}, "assert self.enable_controller"),
        ({"LMCACHE_ENABLE_CONTROLLER": "True"}, "controller_pull_url is required"),
    ],
)
def test_lmcache_itself_is_asked(environ: dict[str, str], why: str) -> None:
    found = complaints("lmcache", **environ)
    assert [name for name, _ in found] == [""] * bool(why)
    assert all(why in text for _, text in found)


@pytest.mark.packages
@pytest.mark.timeout(300)
def test_the_engine_itself_is_asked() -> None:
    """One process for all: its imports take most of the time."""
    wrong = {
        "unknown": ["--swap-space", "16"],
        "value": ["--limit-mm-per-prompt", "image=2"],
        "choice": ["--dtype", "fp16"],
    }
    workers = [["right", ["--model", "org/m", "--max-num-seqs", "8"], False]]
    workers += [[name, ["--model", "org/m", *words], False] for name, words in wrong.items()]
    found = dict(complaints("arguments", json.dumps(workers)))
    assert set(found) == set(wrong)
    assert "unrecognized arguments: --swap-space 16" in found["unknown"]
    assert "--limit-mm-per-prompt" in found["value"]
    assert "invalid choice: 'fp16'" in found["choice"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (RuntimeError(""), "RuntimeError"),
        (KeyError("added_tokens"), "KeyError: 'added_tokens'"),
        (engine_trial._RefusedError("unrecognized arguments: --x"), "unrecognized arguments: --x"),
    ],
)
def test_an_error_is_one_line(error: Exception, words: str) -> None:
    assert engine_trial._words(error) == words


def test_an_assertion_without_words_is_shown_as_it_stands() -> None:
    value = None
    with pytest.raises(AssertionError) as caught:
        assert value is not None
    bare = AssertionError().with_traceback(caught.value.__traceback__)
    assert "assert value is not None" in engine_trial._words(bare)


def test_a_finding_of_pydantics_is_shown_without_what_surrounds_it() -> None:
    class Number(BaseModel):
        share: Annotated[float, Field(le=1)]

    with pytest.raises(ValidationError) as caught:
        Number(share=90)
    assert engine_trial._words(caught.value) == "share: Input should be less than or equal to 1"
