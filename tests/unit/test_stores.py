"""The URLs of LMCache's remote stores, and what each store needs."""

from __future__ import annotations

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.lmcache import remote_stores, tables


@pytest.mark.parametrize(
    ("url", "addresses", "username", "password", "redacted_url"),
    [
        ("redis://cache:6380", [("cache", 6380)], "", "", "redis://cache:6380"),
        ("redis://cache", [("cache", 6379)], "", "", "redis://cache:6379"),
        ("redis://u:p%40ss@10.0.0.1:1/0", [("10.0.0.1", 1)], "u", "p@ss", "redis://10.0.0.1:1/0"),
        ("rediss://:secret@cache:6379", [("cache", 6379)], "", "secret", "rediss://cache:6379"),
        (
            "redis-sentinel://u:p@a:1,b:2",
            [("a", 1), ("b", 2)],
            "u",
            "p",
            "redis-sentinel://a:1,b:2",
        ),
        ("redis-cluster://a:1,b:6379", [("a", 1), ("b", 6379)], "", "", "redis-cluster://a:1,b:6379"),
        ("unix:///run/redis.sock", [], "", "", "unix:///run/redis.sock"),
        ("lm://[::1]:65432", [("::1", 65432)], "", "", "lm://::1:65432"),
    ],
)
def test_a_url_is_read(
    url: str, addresses: list[tuple[str, int]], username: str, password: str, redacted_url: str
) -> None:
    store = remote_stores.parse(url)
    assert list(store.addresses) == addresses
    assert (store.username, store.password, store.redacted_url) == (username, password, redacted_url)


def test_what_follows_a_question_mark_is_read() -> None:
    store = remote_stores.parse("infinistore://host:12345?device=mlx5_1")
    assert store.query == (("device", "mlx5_1"),)


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("", "is not a store that LMCache knows", "begin it with"),
        ("localhost:6379", "is not a store that LMCache knows", "as in redis://"),
        ("redsi://h:1", "is not a store that LMCache knows", "did you mean 'redis'?"),
        ("http://h:1", "is not a store that LMCache knows", ""),
        ("redis://", "has no host", "redis://host:6379"),
        ("redis://h:port", "has a port that is not a number from 1 to 65535", "redis://host:6379"),
        ("redis://h:70000", "has a port that is not a number", ""),
        ("lm://h", "has no port", "lm://host:65432"),
        ("infinistore://h", "has no port", "device=mlx5_0"),
        ("unix://", "has no path", "unix:///run/redis.sock"),
        ("fs://localhost:0/", "has no path", "fs://localhost:0/path"),
        ("fs:///path", "has no host and port, which LMCache asks for", "fs://localhost:0/path"),
        ("fs://localhost/path", "has no host and port", "fs://localhost:0/path"),
        ("resp://h", "has no port", "resp://host:6379"),
        ("azure://", "has no name", "azure://container"),
        ("plugin://fs", "is not a store that LMCache knows", "LMCACHE_REMOTE_STORAGE_PLUGINS=fs"),
        ("unix://[x/y", "has a port that is not a number", "unix:///run/redis.sock"),
        ("redis-cluster://a:1,,b:2", "has no host", "redis-cluster://host1"),
    ],
)
def test_a_url_that_lmcache_would_not_read_is_refused(url: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as error:
        remote_stores.parse(url)
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_wrong_url_is_shown_without_its_password() -> None:
    with pytest.raises(SpecError) as error:
        remote_stores.parse("redsi://user:secret@host:1")
    assert "secret" not in error.value.message + error.value.hint


@pytest.mark.parametrize("kind", remote_stores.KINDS.values(), ids=remote_stores.KINDS)
def test_each_example_is_a_url(kind: remote_stores.Kind) -> None:
    store = remote_stores.parse(kind.example)
    assert store.kind is kind
    assert store.redacted_url
    assert (kind.adapter is None) is bool(kind.why_no_adapter)


def test_each_scheme_that_lmcache_has_is_known() -> None:
    """A test of `tables` compares them with the installed LMCache."""
    assert remote_stores.KINDS.keys() == tables.SCHEMES
    assert set(remote_stores.L2_ADAPTERS) == tables.ADAPTERS
    adapters = {kind.adapter for kind in remote_stores.KINDS.values()}
    assert adapters - {None} <= tables.ADAPTERS


def test_a_name_is_shown_without_a_password() -> None:
    assert remote_stores.parse("external://u:secret@h:0/m").redacted_url == "external://h:0/m"
