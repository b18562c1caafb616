"""Set keys in a user's TOML file and keep everything else: comments, order, blank lines."""

from __future__ import annotations

from typing import Any

from dynamoctl.errors import PreflightError, SpecError


def require() -> None:
    """Check that TOML files can be edited, before anything is measured.

    Raises:
        PreflightError: tomlkit is not installed.
    """
    from importlib.util import find_spec

    if find_spec("tomlkit") is None:
        raise PreflightError(
            "editing a TOML file needs tomlkit, which is not installed",
            "install the extra bench: pip install 'dynamoctl[bench]'",
        )


def with_lmcache(text: str, values: dict[str, int | float]) -> str:
    """A TOML file's text with these keys set in `[lmcache]`.

    Raises:
        SpecError: the text is not TOML, or its `lmcache` is not a table.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        table: Any = document.get("lmcache")
        if table is None:
            # Appended at the end of the document.
            table = tomlkit.table()
            document["lmcache"] = table
        for name, value in values.items():
            table[name] = value
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError) as error:
        raise SpecError(f"the TOML file cannot be edited: {error}", "set the keys by hand") from None
