"""What must not be shown: tokens and passwords, in a plan, a log line or an error."""

from __future__ import annotations

import json
import re
from typing import Any

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|API_?KEY|(ACCESS|CLIENT|PRIVATE)_KEY)$", re.IGNORECASE
)
# user:password@ of a URL, wherever it stands
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")


def is_secret_name(name: str) -> bool:
    """Whether what has this name should not be shown."""
    return bool(_SECRET_NAME.search(name))


def redact(value: Any, name: str = "") -> Any:
    """The same value with every secret in it replaced; strings, lists and tables all the way down."""
    if isinstance(value, dict):
        return {key: redact(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(inner) for inner in value]
    if isinstance(value, str):
        inner = _table(value)
        redacted = redact(inner)
        if redacted != inner:
            return json.dumps(redacted)
        return HIDDEN if value and is_secret_name(name) else _URL_PASSWORD.sub(HIDDEN, value)
    return value


def _table(text: str) -> dict[str, Any] | None:
    """What a setting holds that is itself a table in JSON, as LMCACHE_EXTRA_CONFIG."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
