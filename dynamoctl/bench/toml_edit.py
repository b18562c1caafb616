"""Two keys of a user's TOML set, everything else in it kept as it is: comments, order, blanks."""

from __future__ import annotations

from typing import Any

from dynamoctl.errors import PreflightError, SpecError


def require() -> None:
    """See that a TOML can be edited, before anything is measured.

    Raises:
        PreflightError: tomlkit is not installed.
    """
    from importlib.util import find_spec

    if find_spec("tomlkit") is None:
        raise PreflightError(
            "writing into a TOML needs tomlkit, which is not installed",
            "install the extra bench: pip install 'dynamoctl[bench]'",
        )


def with_lmcache(text: str, values: dict[str, int | float]) -> str:
    """The file's text with these keys of `[lmcache]`.

    Raises:
        SpecError: it is not TOML, or `lmcache` is not a table in it.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        table: Any = document.get("lmcache")
        if table is None:
            # After all else, and apart from it.
            table = tomlkit.table()
            document["lmcache"] = table
        for name, value in values.items():
            table[name] = value
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError) as error:
        raise SpecError(f"the TOML cannot be edited: {error}", "set the keys by hand") from None
