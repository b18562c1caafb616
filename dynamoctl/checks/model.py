"""The model: found, and whole."""

from __future__ import annotations

from pathlib import Path

from dynamoctl.checks.base import Check, Finding, Level, unit_environ
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import hub, model_files, models
from dynamoctl.planner.arguments import is_given
from dynamoctl.planner.plan import DeploymentPlan

# Of the weights that are missing, so many are named.
_NAMED = 3


def _model(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> list[Finding]:
    environ = unit_environ(plan)
    try:
        fetches = not (model.builtin or model.is_folder or models.nothing_is_fetched(environ))
        if plan.engine == "vllm" and fetches:
            # Also for a model that is here: vLLM asks the hub whether it is the newest.
            hub.require_proxies()
        models.require(model, environ)
    except PreflightError as error:
        return [Finding(Level.ERROR, error.message, error.hint)]
    if model.builtin or model.folder is None:
        return []
    if model.folder != model.path and not models.nothing_is_fetched(environ):
        return []  # the engine downloads what is missing of a hub model
    return _unfinished(plan, Path(model.folder))


def _unfinished(plan: DeploymentPlan, folder: Path) -> list[Finding]:
    """What an engine or the frontend would miss in a model folder, most of a minute after the start."""
    findings = _for_frontend(plan, folder)
    # A frontend alone reads no weights, and neither does the mocker.
    if not plan.workers or plan.engine == "mocker" or _is_given(plan, "--load-format"):
        return findings
    fix = "finish its download (hf download fetches only what is missing)"
    if not models.weight_files(folder):
        findings.append(Finding(Level.ERROR, f"the model folder {folder} has no weights", fix))
    elif missing := models.missing_weights(folder):
        names = ", ".join(missing[:_NAMED]) + (" and others" if len(missing) > _NAMED else "")
        what = f"the model folder {folder} lacks {names}, which its index lists"
        findings.append(Finding(Level.ERROR, what, fix))
    return findings


def _for_frontend(plan: DeploymentPlan, folder: Path) -> list[Finding]:
    """What Dynamo's frontend needs of the folder; vLLM's --tokenizer is not for it."""
    wanted = [
        (
            model_files.has_tokenizer(folder),
            "has no tokenizer that Dynamo's frontend reads",
            "copy or convert the model's tokenizer into it: tokenizer.json, tiktoken.model or *.tiktoken",
        ),
        (
            model_files.says_where_texts_end(folder),
            "does not say which token ends a text",
            "add eos_token_id to its config.json or generation_config.json",
        ),
    ]
    if plan.engine == "mocker":
        # A vLLM worker then serves /v1/completions alone: rule `completions-without-template`.
        wanted.append(
            (
                model_files.has_chat_template(folder),
                "has no chat template, which Dynamo's mocker needs",
                "add chat_template.jinja to it, or take --engine vllm",
            )
        )
    why = "the frontend would never list the model"
    findings = [
        Finding(Level.ERROR, f"the model folder {folder} {what}", fix, why)
        for there, what, fix in wanted
        if not there
    ]
    # `up` verifies a completion, which needs no template.
    methods = model_files.unknown_methods(folder)
    if methods and not _is_given(plan, "--custom-jinja-template"):
        names = ", ".join(f".{name}()" for name in methods)
        what = f"the chat template in {folder} calls {names}, which Dynamo's frontend does not have"
        fix = "write it with slices, split() and replace(), in a copy for `-- --custom-jinja-template`"
        why = "a chat that comes to it gets HTTP 400, while completions work"
        findings.append(Finding(Level.WARNING, what, fix, why))
    return findings


def _is_given(plan: DeploymentPlan, *options: str) -> bool:
    """Whether a worker's command line has one of these options of vLLM, which the mocker does not have."""
    return plan.engine == "vllm" and any(is_given(unit.argv, *options) for unit in plan.workers)


def _ok(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> str:
    return f"{plan.model} ({shell_path(model.folder)})"


def shell_path(folder: str | None) -> str:
    """A model's folder as one writes it in a shell; what will happen if it has none yet."""
    if folder is None:
        return "downloaded or converted at the first start"
    home = Path.home()
    return f"~/{Path(folder).relative_to(home)}" if Path(folder).is_relative_to(home) else folder


CHECK = Check("model", _model, _ok)
