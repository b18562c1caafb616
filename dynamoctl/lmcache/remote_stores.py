"""Remote stores for LMCache's KV cache: their URLs, and what each store needs.

Source: lmcache==0.5.3:v1/storage_backend/connector/*_adapter.py (in-process) and
lmcache==0.5.3:v1/distributed/l2_adapters/ (cache server). LMCache runs without a store whose URL it cannot
read, with one warning in a log. In dynamoctl, such a URL is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import ParseResult, parse_qs, unquote, urlparse

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest


@dataclass(frozen=True)
class Kind:
    """The kind of store of a URL scheme.

    Attributes:
        example: a valid URL.
        module: Python module that LMCache imports for the store in-process; empty if it needs none.
        package: distribution that provides the module.
        adapter: the cache server's adapter for the store (`--l2-adapter`); None if it has none.
        why_no_adapter: why the cache server cannot use the store, for people.
        port: default port; 0 if the URL must have a port.
        many: whether the URL may have several hosts, separated by commas.
        local: whether the URL has a path on this host instead of a host and a port.
    """

    example: str
    module: str = ""
    package: str = ""
    adapter: str | None = None
    why_no_adapter: str = ""
    port: int = 0
    many: bool = False
    local: bool = False


KINDS: dict[str, Kind] = {
    "redis": Kind("redis://host:6379", "redis", "redis", adapter="resp", port=6379),
    "rediss": Kind(
        "rediss://host:6379",
        "redis",
        "redis",
        why_no_adapter="its Redis adapter does not speak TLS",
        port=6379,
    ),
    "unix": Kind(
        "unix:///run/redis.sock",
        "redis",
        "redis",
        why_no_adapter="its Redis adapter takes a host and a port",
        local=True,
    ),
    "redis-sentinel": Kind(
        "redis-sentinel://host1:26379,host2:26379",
        "redis",
        "redis",
        why_no_adapter="its Redis adapter takes one host and a port",
        many=True,
    ),
    "redis-cluster": Kind(
        "redis-cluster://host1:6379,host2:6379",
        "redis",
        "redis",
        why_no_adapter="its Redis adapter takes one host and a port",
        many=True,
    ),
    "valkey": Kind("valkey://host:6379", "glide", "valkey-glide", adapter="valkey"),
    "lm": Kind("lm://host:65432", why_no_adapter="it is itself a cache server"),
    "mooncakestore": Kind(
        "mooncakestore://host:50051/", "mooncake", "mooncake-transfer-engine", adapter="mooncake_store"
    ),
    "infinistore": Kind(
        "infinistore://host:12345?device=mlx5_0",
        "infinistore",
        "infinistore",
        why_no_adapter="it has no adapter for InfiniStore",
    ),
    "fs": Kind(
        "fs://localhost:0/path",
        why_no_adapter="use --lmcache-disk, which does the same",
        local=True,
    ),
    "s3": Kind(
        "s3://bucket.s3.region.amazonaws.com",
        "awscrt",
        "awscrt",
        why_no_adapter="its S3 adapter needs more than a URL: configure it with lmcache.l2 in the TOML",
    ),
}

# The cache server's adapters for --l2-adapter (lmcache 0.5.3); a test compares them with the package.
L2_ADAPTERS = (
    "aerospike",
    "bigtable",
    "dax",
    "fault_inject",
    "fs",
    "fs_native",
    "hfbucket",
    "mock",
    "mooncake_store",
    "native_plugin",
    "nixl_store",
    "nixl_store_dynamic",
    "p2p",
    "plugin",
    "raw_block",
    "resp",
    "s3",
    "sagemaker-hyperpod",
    "valkey",
)


@dataclass(frozen=True)
class Store:
    """One remote store.

    Attributes:
        url: the URL, as LMCache takes it.
        addresses: (host, port) of each host in the URL; empty for a local store.
    """

    scheme: str
    url: str
    addresses: tuple[tuple[str, int], ...] = ()
    username: str = ""
    password: str = ""
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of store of its scheme."""
        return KINDS[self.scheme]

    @property
    def redacted_url(self) -> str:
        """The URL for people, without user name and password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.scheme}://{hosts}{self.path}"


def parse(url: str) -> Store:
    """Parse a store's URL.

    Raises:
        SpecError: the scheme is unknown, or a host or port that the store needs is missing or invalid.
    """
    scheme, colon, rest = url.strip().partition("://")
    if not colon or scheme not in KINDS:
        hint = nearest(scheme, KINDS) if colon else "begin it with the scheme of the store, as in redis://"
        raise SpecError(f"'{_shown(url)}' is not a store that LMCache knows", hint)
    kind = KINDS[scheme]
    if kind.local:
        path = urlparse(url).path
        if path.strip("/") == "":
            raise _wrong(url, "has no path", kind)
        return Store(scheme, url, path=path)
    if kind.many:
        login, at, hosts = rest.rpartition("@")
        name, _, secret = login.partition(":")
        parts = [_split(f"{scheme}://{host}", url, kind) for host in hosts.split(",")]
        addresses = tuple((part.hostname or "", part.port or 0) for part in parts)
        return Store(scheme, url, addresses, unquote(name) if at else "", unquote(secret))
    part = _split(url, url, kind)
    return Store(
        scheme,
        url,
        ((part.hostname or "", part.port or kind.port),),
        unquote(part.username or ""),
        unquote(part.password or ""),
        part.path.rstrip("/"),
        tuple((name, values[-1]) for name, values in parse_qs(part.query).items()),
    )


def _split(single: str, url: str, kind: Kind) -> ParseResult:
    """Parse `single`, the part of `url` with one host."""
    try:
        part = urlparse(single)
        port = part.port
    except ValueError:
        raise _wrong(url, "has a port that is not a number from 1 to 65535", kind) from None
    if not part.hostname:
        raise _wrong(url, "has no host", kind)
    if not port and not kind.port and not single.startswith("s3:"):
        raise _wrong(url, "has no port", kind)
    return part


def _wrong(url: str, what: str, kind: Kind) -> SpecError:
    return SpecError(f"'{_shown(url)}' {what}", f"write it as in {kind.example}")


def _shown(url: str) -> str:
    """The URL without the part before an @, which may hold a password."""
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"
