"""What the shell asks for at a half-typed word. Whatever goes wrong, there is then nothing to offer."""

from __future__ import annotations

from contextlib import suppress

import typer


def deployments() -> list[str]:
    """For `--name`."""
    with suppress(Exception):
        from dynamoctl.state import deployments

        return deployments()
    return []


def units(ctx: typer.Context) -> list[str]:
    """The units of the deployment that is named."""
    with suppress(Exception):
        from dynamoctl.operations.logs import units

        named = (ctx.params.get(param) for param in ("name", "deployment"))
        return units(next(filter(None, named), "default"))
    return []


def deployments_and_units(ctx: typer.Context) -> list[str]:
    """For the first argument of `logs`: a deployment, or a unit of the one that --name names."""
    return [*units(ctx), *(deployments() if ctx.params.get("name") is None else [])]


def gpus(incomplete: str) -> list[tuple[str, str]]:
    """For `--gpus`, after a comma too."""
    with suppress(Exception):
        from dynamoctl.operations.complete import gpu_lists

        return gpu_lists(incomplete)
    return []


def models() -> list[tuple[str, str]]:
    """For `--model`."""
    with suppress(Exception):
        from dynamoctl.operations.complete import model_names

        return model_names()
    return []


def toml_files(incomplete: str) -> list[str]:
    """For `--config`."""
    with suppress(Exception):
        from dynamoctl.operations.complete import toml_files

        return toml_files(incomplete)
    return []
