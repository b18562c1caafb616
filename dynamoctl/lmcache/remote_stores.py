"""Remote stores for LMCache's KV cache: which URLs there are, and what each needs.

From lmcache 0.5.3: `v1/storage_backend/connector/*_adapter.py` for use in the engine's process,
`v1/distributed/l2_adapters/` for the cache server. A URL that LMCache cannot read costs it the store, with
one warning in a log: here it is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import ParseResult, parse_qs, unquote, urlparse

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest


@dataclass(frozen=True)
class Kind:
    """What a scheme stands for.

    Attributes:
        example: a URL as it should be.
        module: the Python module that LMCache imports for it in process; empty where none beside its own.
        package: the distribution that has the module.
        adapter: the cache server's adapter for it (`--l2-adapter`), or None where it has none.
        why_no_adapter: what the cache server lacks, for people.
        port: the port where the URL names none; 0: it must.
        many: whether several hosts may be named, with commas between them.
        local: whether its URL names a path of this machine, or nothing at all.
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
    "lm": Kind("lm://host:65432", why_no_adapter="it is itself such a server"),
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
        why_no_adapter="use --lmcache-disk, which is the same there",
        local=True,
    ),
    "s3": Kind(
        "s3://bucket.s3.region.amazonaws.com",
        "awscrt",
        "awscrt",
        why_no_adapter="its S3 adapter needs more than a URL: give it in lmcache.l2 in the TOML",
    ),
}

# The cache server's adapters for --l2-adapter (lmcache 0.5.3); a test holds them against the package.
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
        url: as LMCache takes it.
        addresses: (host, port) of each host that is named; empty for a local one.
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
        """What its scheme stands for."""
        return KINDS[self.scheme]

    @property
    def shown(self) -> str:
        """The URL for people: no password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.scheme}://{hosts}{self.path}"


def parse(url: str) -> Store:
    """Read a store's URL.

    Raises:
        SpecError: no such scheme, or no host and port where the store needs them.
    """
    scheme, colon, rest = url.strip().partition("://")
    if not colon or scheme not in KINDS:
        hint = nearest(scheme, KINDS) if colon else "begin it with what kind of store it is, as in redis://"
        raise SpecError(f"'{_shown(url)}' is no store that LMCache knows", hint)
    kind = KINDS[scheme]
    if kind.local:
        path = urlparse(url).path
        if path.strip("/") == "":
            raise _wrong(url, "names no path", kind)
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


def _split(one: str, url: str, kind: Kind) -> ParseResult:
    try:
        part = urlparse(one)
        port = part.port
    except ValueError:
        raise _wrong(url, "has a port that is no number from 1 to 65535", kind) from None
    if not part.hostname:
        raise _wrong(url, "names no host", kind)
    if not port and not kind.port and not one.startswith("s3:"):
        raise _wrong(url, "names no port", kind)
    return part


def _wrong(url: str, what: str, kind: Kind) -> SpecError:
    return SpecError(f"'{_shown(url)}' {what}", f"write it as in {kind.example}")


def _shown(url: str) -> str:
    """The URL without what stands before an @: it may be a password."""
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"
