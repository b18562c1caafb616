"""Asks the engine's own parser and configuration classes what they make of a plan; loads no weights.

    python -m dynamoctl.processes.engine_trial arguments '[["worker-0", [ARGUMENT, ...], true], ...]'
    python -m dynamoctl.processes.engine_trial lmcache

The first asks dynamo.vllm and vLLM about the arguments of each worker, and about its model if that is here.
The second asks LMCache about the variables in its environment. Each complaint is a line of JSON after MARK.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from typing import Any

MARK = "dynamoctl-trial: "
_MOST_CHARACTERS = 500


class _RefusedError(Exception):
    """What argparse would print before it exits."""


def main(words: list[str]) -> None:
    """Print a line for each complaint."""
    if words[0] == "lmcache":
        _complain("", _settings)
    else:
        setattr(argparse.ArgumentParser, "error", _refuse)  # noqa: B010 (mypy: a method)
        for name, arguments, is_here in json.loads(words[1]):
            _complain(name, lambda arguments=arguments, is_here=is_here: _worker(arguments, is_here))


def _complain(name: str, question: Any) -> None:
    try:
        why = question()
    except Exception as error:
        why = _words(error)
    if why:
        print(f"\n{MARK}{json.dumps([name, why[:_MOST_CHARACTERS]])}", flush=True)


def _refuse(_parser: argparse.ArgumentParser, message: str) -> None:
    raise _RefusedError(message)


def _words(error: Exception) -> str:
    """An error in one line: pydantic's without what surrounds it, an assertion as the code has it."""
    if isinstance(error, AssertionError) and not str(error):
        return traceback.extract_tb(error.__traceback__)[-1].line or "an assertion fails"
    findings = error.errors() if hasattr(error, "errors") else []
    if findings:
        place = ".".join(str(part) for part in findings[0]["loc"])
        text = findings[0]["msg"].removeprefix("Value error, ")
        return " ".join(f"{place}: {text}".split() if place else text.split())
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, RuntimeError, _RefusedError)) and text:
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def _worker(arguments: list[str], is_here: bool) -> str:
    from dynamo.vllm.args import parse_args

    sys.argv = ["dynamo.vllm", *arguments]
    engine = parse_args().engine_args
    if not is_here:
        return ""  # vLLM would download the model's configuration
    config = engine.create_engine_config()
    if config.model_config.runner_type != "generate":
        return "vLLM takes the model for one that generates no text"
    if config.model_config.is_hybrid and config.scheduler_config.disable_hybrid_kv_cache_manager:
        return "the model has layers with a state, which need vLLM's hybrid KV cache manager, and that is off"
    return ""


def _settings() -> str:
    from lmcache.v1.config import LMCacheEngineConfig

    LMCacheEngineConfig.from_env().validate()
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
