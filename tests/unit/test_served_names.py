"""A model is listed by the names that Dynamo makes of what it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.monitoring import probes
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.printed import render
from dynamoctl.supervisor import readiness
from dynamoctl.supervisor.deployment import Deployment

from tests.unit.fresh import last_line
from tests.unit.hosts import plan
from tests.unit.served import served

# What is asked for -> the names that the frontend lists.
NAMES: dict[str, tuple[str, ...]] = {
    "smol": ("smol",),
    "smol,smol-prod": ("smol", "smol-prod"),
    " smol , smol-prod ,": ("smol", "smol-prod"),
    "smol smol-prod\tqwen/x": ("smol", "smol-prod", "qwen/x"),
    "a,a,b,a": ("a", "b"),
    "org/model": ("org/model",),
    "a//b": ("a//b",),
    "tail/": ("tail/",),
    "q?x#y%20": ("q?x#y%20",),
    "A,a": ("A", "a"),
    "ünï:1@x": ("ünï:1@x",),
}


@pytest.mark.parametrize("asked", NAMES)
def test_up_waits_for_the_names_that_dynamo_lists(asked: str) -> None:
    names = NAMES[asked]
    made = plan(2, mode="disagg", served_model_name=asked)
    assert (made.model, *made.model_aliases) == names
    for unit in made.workers:
        at = unit.argv.index("--served-model-name") + 1
        assert unit.argv[at : at + len(names) + 1] == (*names, "--disaggregation-mode")
    assert DeploymentPlan.from_json(json.loads(json.dumps(made.as_json()))) == made
    assert f"model     {', '.join(names)}  (Qwen/Qwen3-0.6B)" in render(made)


@pytest.mark.packages
def test_the_installed_dynamo_makes_the_same_names() -> None:
    script = """
import json
from dynamo.common.configuration.utils import split_served_model_names
print(json.dumps([split_served_model_names([asked]) for asked in ASKED]))
"""
    made = json.loads(last_line(script.replace("ASKED", repr(list(NAMES)))))
    assert [tuple(dict.fromkeys(names)) for names in made] == list(NAMES.values())


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"served_model_name": ","}, "',' has no name in it", "my-model"),
        ({"served_model_name": "/models/x"}, "leading slash", "my-model"),
        ({"served_model_name": "a,/b"}, "a model named '/b'", "my-model"),
        ({"served_model_name": "a,-b"}, "take '-b' for an option", "my-model"),
        ({"served_model_name": "a b", "engine": "mocker"}, "serves one name, not 2: a, b", "-name a"),
    ],
)
def test_a_name_that_would_not_be_listed_is_refused(fields: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(1, **fields)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_folder_with_a_blank_in_its_name_is_served_under_one_name() -> None:
    folder = ModelFacts("/models/My Model, v2", "My Model, v2")
    made = plan(1, model_facts=folder)
    assert (made.model, made.model_aliases) == ("My-Model-v2", ())
    assert made.model_path == "/models/My Model, v2"
    assert plan(1, model_facts=folder, served_model_name="my-model").model == "my-model"


class _Frontend:
    def __init__(self, *listed: str) -> None:
        self.listed = listed
        self.asked: list[str] = []

    def answer(self, url: str, _question: Any) -> str:
        self.asked.append(url)
        return json.dumps({"ready": any(url.endswith(f"/v1/models/{name}/ready") for name in self.listed)})


def is_listed(made: DeploymentPlan) -> bool:
    deployment = cast("Deployment", type("Planned", (), {"plan": made}))
    return asyncio.run(readiness.is_listed(deployment))[0]


def test_it_is_ready_when_all_of_its_names_are_listed() -> None:
    made = plan(1, served_model_name="smol,org/prod")
    for listed, ready in [(("smol",), False), (("org/prod",), False), (("smol", "org/prod"), True)]:
        with served(_Frontend(*listed).answer):
            assert is_listed(made) is ready


def test_a_name_is_quoted_in_the_url() -> None:
    frontend = _Frontend("q%3Fx%23y%2520")
    with served(frontend.answer):
        assert asyncio.run(probes.lists_model("http://127.0.0.1:1", "q?x#y%20"))[0]
