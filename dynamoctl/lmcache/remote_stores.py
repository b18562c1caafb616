"""Remote stores for LMCache's KV cache: their URLs, and what each store needs.

Source: lmcache==0.5.6:lmcache/v1/storage_backend/connector/*_adapter.py (in-process) and
lmcache/v1/distributed/l2_adapters/ (cache server); a test compares the schemes with `tables`. LMCache runs
without a store whose URL it cannot read, with one warning in a log. In dynamoctl, such a URL is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import ParseResult, parse_qs, unquote, urlparse

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.lmcache import tables


@dataclass(frozen=True)
class Kind:
    """The kind of store of a URL scheme.

    Attributes:
        example: a valid URL.
        module: Python module that LMCache imports for the store in-process; empty if it needs none.
        package: distribution that provides the module.
        extension: compiled part of LMCache that it needs in-process; empty if it needs none.
        adapter: the cache server's adapter for the store (`--l2-adapter`); None if it has none.
        why_no_adapter: why the cache server cannot use the store, for people.
        why_not_in_process: why LMCache in-process cannot use it under dynamoctl; empty if it can.
        settings: entries of `extra_config` of which it needs one in-process.
        variables: variables that stand for these settings.
        whole_chunks: whether it keeps only whole chunks in-process.
        login: where LMCache reads the user name and the password in-process, if not in the URL.
        port: default port; 0 if the URL must have a port.
        many: whether the URL may have several hosts, separated by commas.
        local: whether the URL has a path on this host.
        named: whether the URL has a name instead of a host and a port.
        listed: whether the documentation and `init` show it.
    """

    example: str
    module: str = ""
    package: str = ""
    extension: str = ""
    adapter: str | None = None
    why_no_adapter: str = ""
    why_not_in_process: str = ""
    settings: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    whole_chunks: bool = False
    login: str = ""
    port: int = 0
    many: bool = False
    local: bool = False
    named: bool = False
    listed: bool = True


_BY_L2 = "its adapter needs more than a URL: configure it with lmcache.l2 in the TOML"
_FOR_TESTS = "it is for tests of LMCache in process"

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
    "resp": Kind(
        "resp://host:6379",
        extension="lmcache_redis",
        adapter="resp",
        whole_chunks=True,
        login="LMCACHE_RESP_USERNAME and LMCACHE_RESP_PASSWORD",
    ),
    "valkey": Kind(
        "valkey://host:6379",
        "glide",
        "valkey-glide",
        adapter="valkey",
        whole_chunks=True,
        login="valkey_username and valkey_password in extra_config",
    ),
    "lm": Kind("lm://host:65432", why_no_adapter="it is itself a cache server"),
    "mooncakestore": Kind(
        "mooncakestore://host:50051/",
        "mooncake",
        "mooncake-transfer-engine",
        adapter="mooncake_store",
        settings=("mooncake_local_hostname", "local_hostname"),
        variables=("MOONCAKE_CONFIG_PATH",),
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
    "hf3fs": Kind(
        "hf3fs:///mnt/3fs/kv",
        "hf3fs_fuse",
        "hf3fs_fuse",
        why_no_adapter=_BY_L2,
        settings=("hf3fs_mount_point",),
        local=True,
    ),
    "s3": Kind(
        "s3://bucket.s3.region.amazonaws.com",
        "awscrt",
        "awscrt",
        why_no_adapter=_BY_L2,
        settings=("s3_region",),
        named=True,
    ),
    "azure": Kind(
        "azure://container",
        "azure.storage.blob",
        "azure-storage-blob",
        why_no_adapter="it has no adapter for Azure",
        settings=("azure_account_url", "azure_connection_string"),
        named=True,
    ),
    "bigtable": Kind(
        "bigtable://table",
        "google.cloud.bigtable",
        "google-cloud-bigtable",
        why_no_adapter=_BY_L2,
        settings=("bigtable_table_name",),
        variables=("BT_TABLE_NAME",),
        named=True,
    ),
    "sagemaker-hyperpod": Kind("sagemaker-hyperpod://host:9200", why_no_adapter=_BY_L2),
    "audit": Kind(
        "audit://host:8080",
        why_no_adapter=_FOR_TESTS,
        settings=("audit_actual_remote_url",),
        named=True,
        listed=False,
    ),
    "external": Kind(
        "external://host:0/module/?connector_name=Connector",
        why_no_adapter="it has no such adapter",
        named=True,
        listed=False,
    ),
    "mock": Kind("mock://100/", why_no_adapter=_FOR_TESTS, named=True, listed=False),
    "blackhole": Kind("blackhole://none", why_no_adapter=_FOR_TESTS, named=True, listed=False),
    "eic": Kind(
        "eic://host:1234",
        why_no_adapter="it has no adapter for EIC",
        why_not_in_process="its connector reads a file of its own from LMCACHE_CONFIG_FILE, which dynamoctl"
        " turns into variables",
        named=True,
        listed=False,
    ),
}

# The cache server's adapters for --l2-adapter.
L2_ADAPTERS = tuple(sorted(tables.ADAPTERS))


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
        if self.kind.named:
            return _shown(self.url)
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
        if scheme == "plugin":
            hint = f"name it in LMCACHE_REMOTE_STORAGE_PLUGINS={rest}, without an address"
        raise SpecError(f"'{_shown(url)}' is not a store that LMCache knows", hint)
    kind = KINDS[scheme]
    if kind.named:
        if not rest:
            raise _wrong(url, "has no name", kind)
        return Store(scheme, url)
    if kind.local:
        part = _parsed(url, url, kind)
        if part.path.strip("/") == "":
            raise _wrong(url, "has no path", kind)
        if scheme == "fs" and (not part.hostname or part.port is None):
            # lmcache==0.5.6:lmcache/v1/storage_backend/connector/__init__.py:parse_remote_url
            raise _wrong(url, "has no host and port, which LMCache asks for and does not use", kind)
        return Store(scheme, url, path=part.path)
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


def _parsed(single: str, url: str, kind: Kind) -> ParseResult:
    try:
        part = urlparse(single)
        part.port  # noqa: B018 - it is read here, where it may be no number
    except ValueError:
        raise _wrong(url, "has a port that is not a number from 1 to 65535", kind) from None
    return part


def _split(single: str, url: str, kind: Kind) -> ParseResult:
    """Parse `single`, the part of `url` with one host."""
    part = _parsed(single, url, kind)
    if not part.hostname:
        raise _wrong(url, "has no host", kind)
    if not part.port and not kind.port:
        raise _wrong(url, "has no port", kind)
    return part


def _wrong(url: str, what: str, kind: Kind) -> SpecError:
    return SpecError(f"'{_shown(url)}' {what}", f"write it as in {kind.example}")


def _shown(url: str) -> str:
    """The URL without the part before an @, which may hold a password."""
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"
