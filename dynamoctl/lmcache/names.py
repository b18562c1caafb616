"""The names of LMCache's variables: which of them something reads, and which nothing does.

LMCache ignores a name that it does not know, so in dynamoctl a wrong one is an error. Three groups have names
that are put together: `LMCACHE_<KEY>`, `LMCACHE_EC_<KEY>` (the same settings for its encoder cache) and
`LMCACHE_CONTROLLER_<KEY>` (its controller). Kubernetes and docker put further variables beside a service
whose name begins with `lmcache`; those are nobody's settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.lmcache import tables
from dynamoctl.lmcache.tables import PREFIX

ENCODER_PREFIX = f"{PREFIX}EC_"
_CONTROLLER_PREFIX = f"{PREFIX}CONTROLLER_"

# Variables of earlier versions, which instructions on the web still have. They do nothing.
_EARLIER = frozenset({"LMCACHE_USE_EXPERIMENTAL", "LMCACHE_LOG_FORMAT"})
# What programs read that is not a setting of the engine: it is passed on unchanged.
PROCESS_VARIABLES = (
    tables.VARIABLES | _EARLIER | {_CONTROLLER_PREFIX + key.upper() for key in tables.CONTROLLER_KEYS}
)
# Those of a store, which may be secrets, and those of the server: no worker beside a server reads them.
STORE_PREFIXES = ("LMCACHE_RESP_", "LMCACHE_AEROSPIKE_")
SERVER_PREFIXES = (*STORE_PREFIXES, "LMCACHE_COORDINATOR_")
# The variables of the encoder cache -> the setting.
ENCODER_VARIABLES = {
    ENCODER_PREFIX + name.upper(): key
    for name, key in ({key: key for key in tables.KEYS} | tables.DEPRECATED | tables.RENAMED).items()
}

# Kubernetes, "Discovering services", and docker's links, which made the same names.
_LINK = re.compile(r"LMCACHE(_\w+)?_PORT(_\d+_(TCP|UDP|SCTP))?", re.ASCII)
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+")
_LINK_PART = re.compile(r"LMCACHE(_\w+)?_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)", re.ASCII)
_SERVICE = re.compile(r"LMCACHE(_\w+)?_SERVICE_(HOST|PORT(_\w+)?)", re.ASCII)
_DOCKER = re.compile(r"(?P<link>LMCACHE(_\w+?)?)_(NAME|ENV_\w+)", re.ASCII)


def setting_of(variable: str) -> str | None:
    """The setting that a variable sets, also by an old name that LMCache still takes; None if none."""
    if variable != variable.upper() or not variable.startswith(PREFIX):
        return None
    key = variable.removeprefix(PREFIX).lower()
    return key if key in tables.KEYS else tables.DEPRECATED.get(key)


def variable(key: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + tables.DEPRECATED.get(key, key).upper()


def now(name: str) -> str:
    """The name that a variable has now, if LMCache still takes an old one of it."""
    key = setting_of(name)
    return variable(key) if key else name


def is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes or docker made a variable, for a service whose name begins with `lmcache`."""
    if _LINK.fullmatch(name) and _LINK_VALUE.fullmatch(environ[name]):
        return True
    if _SERVICE.fullmatch(name) or _LINK_PART.fullmatch(name):
        return True
    docker = _DOCKER.fullmatch(name)
    return bool(docker and _LINK_VALUE.fullmatch(environ.get(f"{docker['link']}_PORT", "")))


def unknown(name: str, place: str = "") -> SpecError:
    """The error for a variable that nothing reads.

    Args:
        place: where it stands, as in ` (in FILE, line 3)`; empty for the environment.
    """
    known = [*(variable(key) for key in tables.KEYS), *PROCESS_VARIABLES]
    if name.startswith(ENCODER_PREFIX):
        known = list(ENCODER_VARIABLES)
    return _unknown(name, name.removeprefix(PREFIX).lower(), known, PREFIX, place)


def unknown_key(key: str, place: str) -> SpecError:
    """The error for a key of LMCache's file that LMCache does not have."""
    return _unknown(key, key, list(tables.KEYS), "", place)


def _unknown(name: str, key: str, known: list[str], prefix: str, place: str) -> SpecError:
    renamed = tables.RENAMED.get(key)
    now = f"{prefix}{renamed}".upper() if prefix else renamed
    hint = f"its name is {now} now" if renamed else nearest(name.upper() if prefix else name, known)
    return SpecError(f"LMCache has no setting {name}{place} and would silently ignore it", hint)
