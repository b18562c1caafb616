"""The names under which Dynamo lists a model.

dynamo.vllm splits what it is told at blanks and commas: the first name is the model's, the others are its
aliases. The frontend lists and serves all of them, each once.

Source: ai-dynamo==1.6.1:dynamo/common/configuration/utils.py:split_served_model_names.
"""

from __future__ import annotations

import re

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts

_BETWEEN = re.compile(r"[\s,]+")


def served_names(spec: DeploymentSpec, model: ModelFacts) -> tuple[str, ...]:
    """The model's names, its own first. A folder's name gets hyphens for its blanks and commas.

    Raises:
        SpecError: Dynamo would not list the model.
    """
    text = spec.served_model_name or _BETWEEN.sub("-", model.served_name.strip())
    names = tuple(dict.fromkeys(name for name in _BETWEEN.split(text) if name))
    advice = "give a name with --served-model-name, as in --served-model-name my-model"
    if not names:
        raise SpecError(f"served_model_name: '{text}' has no name in it", advice)
    for name in names:
        # The frontend says at /v1/models/NAME/ready whether it serves a model, and finds none by such a name
        # (measured with ai-dynamo==1.6.1).
        if name.startswith("/"):
            raise SpecError(
                f"served_model_name: the frontend never says that a model named '{name}' is ready,"
                " because of the leading slash",
                advice,
            )
        if name.startswith("-"):
            raise SpecError(
                f"served_model_name: the engine would take '{name}' for an option of its own", advice
            )
    if spec.engine == "mocker" and len(names) > 1:
        raise SpecError(
            f"served_model_name: Dynamo's mocker serves one name, not {len(names)}: {', '.join(names)}",
            f"give one, as in --served-model-name {names[0]}",
        )
    return names
