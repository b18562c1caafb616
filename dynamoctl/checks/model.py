"""The model: found, and whole."""

from __future__ import annotations

from pathlib import Path

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import hub, models
from dynamoctl.planner.plan import DeploymentPlan

# Of the weights that are missing, so many are named.
_NAMED = 3


def _model(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> list[Finding]:
    try:
        if plan.engine == "vllm" and not (model.builtin or model.is_folder or models.nothing_is_fetched()):
            # Also for a model that is here: vLLM asks the hub whether it is the newest.
            hub.require_proxies()
        models.require(model)
    except PreflightError as error:
        return [Finding(Level.ERROR, error.message, error.hint)]
    if model.builtin or model.folder is None:
        return []
    if model.folder != model.path and not models.nothing_is_fetched():
        return []  # the engine downloads what is missing of a hub model
    return _unfinished(plan, Path(model.folder))


def _unfinished(plan: DeploymentPlan, folder: Path) -> list[Finding]:
    """What an engine would miss in a model folder, most of a minute after its start."""
    findings = []
    if not models.has_tokenizer(folder) and not _is_given(plan, "--tokenizer", "--skip-tokenizer-init"):
        findings.append(
            Finding(
                Level.ERROR,
                f"the model folder {folder} has no tokenizer",
                "copy the model's tokenizer into it (usually tokenizer.json and tokenizer_config.json)",
            )
        )
    # A frontend alone reads no weights, and neither does the mocker.
    if not plan.workers or plan.engine == "mocker" or _is_given(plan, "--load-format", "--config"):
        return findings
    fix = "finish its download (hf download fetches only what is missing)"
    if not models.weight_files(folder):
        findings.append(Finding(Level.ERROR, f"the model folder {folder} has no weights", fix))
    elif missing := models.missing_weights(folder):
        names = ", ".join(missing[:_NAMED]) + (" and others" if len(missing) > _NAMED else "")
        what = f"the model folder {folder} lacks {names}, which its index lists"
        findings.append(Finding(Level.ERROR, what, fix))
    return findings


def _is_given(plan: DeploymentPlan, *options: str) -> bool:
    """Whether a worker's command line has one of these options of vLLM."""
    words = {word.partition("=")[0].replace("_", "-") for unit in plan.workers for word in unit.argv}
    return not words.isdisjoint(options)


def _ok(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> str:
    return f"{plan.model} ({shell_path(model.folder)})"


def shell_path(folder: str | None) -> str:
    """A model's folder as one writes it in a shell; what will happen if it has none yet."""
    if folder is None:
        return "downloaded or converted at the first start"
    home = Path.home()
    return f"~/{Path(folder).relative_to(home)}" if Path(folder).is_relative_to(home) else folder


CHECK = Check("model", _model, _ok)
