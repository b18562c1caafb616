"""One deployment over two hosts that find each other in etcd: first Dynamo's mocker, then the real stack."""

from __future__ import annotations

import base64
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dynamoctl import policies
from dynamoctl.monitoring.etcd import CERTIFICATES

from . import hosts
from .conftest import PATIENCE_S, Cli, cleanly, first_on_path, freeze, wait_for
from .small_model import ENGINE_ARGS, NAME, SmallModel

pytestmark = [pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
LONG = "The sea is wide and the sky is blue, said the sailor to his cat. " * 20
CHAT_TOKENS = 24
API = "http://127.0.0.1:8000"
# What vLLM says when it lets go of a NIXL peer.
RELEASED = "Released NIXL state for replaced remote engine"


@dataclass
class Pair:
    """Two hosts with a dynamoctl each; the frontend is on the first."""

    first: hosts.Host
    second: hosts.Host
    here: Cli
    there: Cli
    etcd: str
    model: str = MODEL

    def chat(self, question: str, patience_s: float = 60) -> tuple[int, str]:
        """The status and the answer, or the error."""
        status, text = self.first.ask(
            f"{API}/v1/chat/completions",
            {
                "model": self.model,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": CHAT_TOKENS,
                "temperature": 0,
            },
            patience_s,
        )
        return status, json.loads(text)["choices"][0]["message"]["content"] if status == 200 else text

    def words(self, host: hosts.Host, roles: str, *more: str, mode: str = "disagg") -> tuple[str, ...]:
        found = ("--discovery", "etcd", "--etcd-endpoints", self.etcd, "--advertise", host.address)
        return ("up", mode, "--roles", roles, *found, *more)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pair]:
    at = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        first, second = stack.enter_context(hosts.two_hosts())
        etcd = stack.enter_context(hosts.etcd(first, at))
        here, there = (
            stack.enter_context(
                cleanly(Cli(tmp_path_factory.mktemp("home"), prefix=host.prefix), request.node.nodeid)
            )
            for host in (first, second)
        )
        yield Pair(first, second, here, there, etcd.url)


@pytest.fixture(scope="class")
def mocked(pair: Pair) -> Iterator[Pair]:
    """A deployment of mockers."""
    bring_up(pair, "--engine", "mocker", patience_s=60)
    yield pair
    take_down(pair)


@pytest.fixture(scope="class")
def served(pair: Pair, small: SmallModel) -> Iterator[Pair]:
    """The real stack. Both hosts are this machine, and each plans with all of its cores."""
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    words = ("--device", "cpu", *small.words, "--", *ENGINE_ARGS)
    bring_up(pair, *words, patience_s=400, **threads)
    yield replace(pair, model=NAME)
    take_down(pair)


def bring_up(pair: Pair, *more: str, patience_s: float, **env: str) -> None:
    """The host with the frontend starts first, and waits for the other."""
    first = pair.words(pair.first, "frontend,decode", "--timeout", str(patience_s), *more)
    with pair.here.start(*first, **env) as waiting:
        until_it_waits(pair, waiting)
        words = pair.words(pair.second, "prefill", "--timeout", str(patience_s), *more)
        other = pair.there(*words, cwd=None, patience_s=patience_s, **env)
        out, err = waiting.communicate(timeout=patience_s)
    assert other.code == 0, other.err
    assert "the frontend is on another host" in other.err
    assert waiting.returncode == 0, err
    assert "waiting for prefill on another host" in err
    assert API in out


def until_it_waits(pair: Pair, starting: subprocess.Popen[str]) -> None:
    """Until the host with the frontend waits for the other, or has ended."""
    wait_for(lambda: "on another host" in phase(pair.here, "frontend") or starting.poll() is not None)


def take_down(pair: Pair) -> None:
    for cli in (pair.here, pair.there):
        down = cli("down")
        assert down.code == 0, down.err


def phase(cli: Cli, unit: str) -> str:
    return next((str(one["phase"]) for one in cli.status()["units"] if one["name"] == unit), "")


def states(cli: Cli) -> dict[str, str]:
    return {one["name"]: one["state"] for one in cli.status()["units"]}


def restarts(cli: Cli, unit: str) -> int:
    return next(int(one["restarts"]) for one in cli.status()["units"] if one["name"] == unit)


def has_restarted(cli: Cli, unit: str, times: int) -> bool:
    return restarts(cli, unit) == times


def revoke_lease(pair: Pair, component: str) -> None:
    """End the lease of the process that serves a component, in etcd."""

    def ask(what: str, body: dict[str, Any]) -> dict[str, Any]:
        status, text = pair.first.ask(f"{pair.etcd}/v3/{what}", body, 30)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    everything = {name: base64.b64encode(b"\0").decode() for name in ("key", "range_end")}
    entries = ask("kv/range", everything)["kvs"]
    lease = next(one["lease"] for one in entries if f"/{component}/" in base64.b64decode(one["key"]).decode())
    ask("lease/revoke", {"ID": lease})


def remote(cli: Cli) -> list[dict[str, Any]] | None:
    found: list[dict[str, Any]] | None = cli.status()["remote"]
    return found  # None: nobody says it


def moved(pair: Pair) -> int:
    """Bytes that the decode worker has read from the prefill worker."""
    return int(pair.here.status()["transfers"]["bytes"])


@contextmanager
def stalls_of_the_machine() -> Iterator[list[float]]:
    """How long nothing ran here at all, seconds each: not even a thread that only sleeps."""
    stood_still: list[float] = []
    over = threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not over.wait(0.1):
            now = time.monotonic()
            if now - last > 2:
                stood_still.append(now - last)
            last = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield stood_still
    finally:
        over.set()
        watcher.join()


def cut_and_mend(pair: Pair) -> None:
    """Requests end with an error while the link is cut, and work again when it is back."""
    pair.second.set_link(up=False)
    status, text = pair.chat("Are you there?", patience_s=100)
    assert status != 200, text
    wait_for(lambda: pair.here.status()["state"] == "degraded", 60)
    wait_for(lambda: "etcd" in " ".join(pair.there.status()["warnings"]), 60)
    status, text = pair.chat("Are you there?", patience_s=100)
    assert status != 200, text
    # A frontend gives up a worker that it cannot reach before etcd forgets it. With the link back in between,
    # it answers again, until etcd has forgotten the worker after all, and that one ends and starts again.
    wait_for(lambda: remote(pair.here) == [], 60)
    pair.second.set_link(up=True)
    wait_for(lambda: remote(pair.here), 200)
    wait_for(lambda: pair.chat("And now?")[0] == 200, 60)
    wait_for(lambda: pair.here.status()["state"] == pair.there.status()["state"] == "ready", 60)


@pytest.mark.mocker
@pytest.mark.xdist_group("hosts-mockers")
class TestMockers:
    """Dynamo's mockers: who finds whom, who is shown, what a link that is cut does."""

    def test_they_answer(self, mocked: Pair) -> None:
        status, answer = mocked.chat("What is the capital of France?")
        assert (status, bool(answer)) == (200, True)

    def test_each_host_shows_its_units_and_those_of_the_other(self, mocked: Pair) -> None:
        assert states(mocked.here) == {"frontend": "ready", "decode-0": "ready"}
        assert states(mocked.there) == {"prefill-0": "ready"}
        (prefill,), (decode,) = remote(mocked.here) or [], remote(mocked.there) or []
        assert (prefill["component"], decode["component"]) == ("prefill", "backend")
        assert prefill["address"].startswith(f"{mocked.second.address}:")
        assert decode["address"].startswith(f"{mocked.first.address}:")
        assert mocked.there.status()["endpoint"] is None

    def test_a_worker_that_loses_its_lease_again_and_again_comes_back_each_time(self, mocked: Pair) -> None:
        """As on a host that stalls: more often than a worker may end by itself."""
        before = restarts(mocked.here, "decode-0")
        for number in range(1, policies.RESTART_LIMIT + 2):
            revoke_lease(mocked, "backend")
            wait_for(partial(has_restarted, mocked.here, "decode-0", before + number), 60)
            wait_for(lambda: mocked.here.status()["state"] == "ready", 60)
        assert mocked.chat("Are you there?")[0] == 200
        log = mocked.here.home / "deployments/default/logs/supervisor.log"
        assert log.read_text().count("its lease in etcd had run out") == policies.RESTART_LIMIT + 1

    def test_a_link_that_is_cut_and_comes_back(self, mocked: Pair) -> None:
        """For so long that etcd forgets who is behind it."""
        cut_and_mend(mocked)


@pytest.mark.engine
@pytest.mark.xdist_group("vllm-2")
class TestEngines:
    """vLLM on the CPU, with NIXL over the link."""

    def test_the_answer_is_right(self, served: Pair, small: SmallModel) -> None:
        assert served.chat(LONG) == (200, small.chats(LONG, CHAT_TOKENS))

    def test_kv_blocks_go_over_the_link(self, served: Pair) -> None:
        bytes_before, moved_before = served.first.received(), moved(served)
        status, answer = served.chat(LONG)
        assert status == 200, answer
        wait_for(lambda: moved(served) > moved_before, 30)
        assert served.first.received() - bytes_before >= moved(served) - moved_before > 0
        assert served.here.status()["transfers"]["failed"] == 0

    def test_no_chat_stalls(self, served: Pair) -> None:
        """An idle prefill worker answers NIXL's reads at once; stalls were of 20 s and more.

        One chat may take as long if other tests have the cores: most of them do not.
        """
        seconds = []
        with stalls_of_the_machine() as stood_still:
            for number in range(5):
                began, before = time.monotonic(), sum(stood_still)
                status, answer = served.chat(f"{number} {LONG}")
                assert status == 200, answer
                seconds.append(round(time.monotonic() - began - (sum(stood_still) - before), 1))
        print("chats took", seconds)
        assert statistics.median(seconds) < 15, seconds

    def test_a_link_that_is_cut_and_comes_back(self, served: Pair, small: SmallModel) -> None:
        cut_and_mend(served)
        assert served.chat(LONG) == (200, small.chats(LONG, CHAT_TOKENS))

    def test_decode_lets_go_of_a_prefill_worker_that_is_gone(self, served: Pair, small: SmallModel) -> None:
        """Long before it is back, at the same address: until then its memory would stay mapped."""
        assert served.chat(LONG) == (200, small.chats(LONG, CHAT_TOKENS))
        log = served.here.home / "deployments/default/logs/decode-0.log"
        before = log.read_text(errors="replace").count(RELEASED)
        (prefill,) = (one for one in served.there.status()["units"] if one["role"] == "prefill")
        os.kill(prefill["pid"], signal.SIGKILL)
        wait_for(lambda: log.read_text(errors="replace").count(RELEASED) > before, 30)
        assert served.here.status()["units"][-1]["restarts"] == 0
        (now,) = (one for one in served.there.status()["units"] if one["role"] == "prefill")
        assert now["state"] in ("failed", "backoff", "starting")


@pytest.mark.mocker
def test_a_start_that_stands_still_for_longer_than_its_lease(pair: Pair, tmp_path: Path) -> None:
    """What is lost then is said, and everything is taken down."""
    config = tmp_path / "d.toml"
    config.write_text('[env]\nETCD_LEASE_TTL = "4"\n')
    more = ("--engine", "mocker", "--timeout", "100", "--config", str(config))
    with pair.here.start(*pair.words(pair.first, "frontend,decode", *more)) as waiting:
        until_it_waits(pair, waiting)
        freeze([one["pid"] for one in pair.here.status()["units"] if one["name"] == "frontend"], 6)
        _, err = waiting.communicate(timeout=100)
    assert waiting.returncode == 4, err
    assert "error: frontend ended" in err
    assert "its lease in etcd had run out" in err
    assert "set ETCD_LEASE_TTL" in err
    assert pair.here.ours() == {}


@pytest.mark.mocker
@pytest.mark.xdist_group("hosts-mockers")
def test_a_host_with_another_copy_of_the_model(pair: Pair, copied_model: Path) -> None:
    """It does not join; while it is there all the same, the host with the frontend says who differs."""
    more = ("--engine", "mocker", "--model", str(copied_model), "--timeout", "100")
    up = pair.here(*pair.words(pair.first, "frontend,agg", *more, mode="agg"), cwd=None, patience_s=100)
    assert up.code == 0, up.err
    settings = json.loads((copied_model / "tokenizer_config.json").read_text())
    (copied_model / "tokenizer_config.json").write_text(json.dumps({**settings, "another": True}))
    words = pair.words(pair.second, "agg", *more, mode="agg")
    other = pair.there(*words, cwd=None, patience_s=100)
    assert other.code == 4, other.err
    assert "workers registered different copies of copied: tokenizer_config.json is" in other.err
    assert f"(backend at {pair.first.address}:" in other.err
    assert "(worker-0)" in other.err
    assert "give every host the same model" in other.err
    wait_for(lambda: pair.here.status()["state"] == "ready", 60)
    # Kept up, it stays registered.
    other = pair.there(*words, "--keep", cwd=None, patience_s=100)
    assert other.code == 4, other.err
    body = wait_for(lambda: (b := pair.here.status())["warnings"] and b, 30)
    assert body["state"] == "degraded"
    (warning,) = body["warnings"]
    assert f"(backend at {pair.second.address}:" in warning
    assert pair.there("down").code == 0
    wait_for(lambda: pair.here.status()["state"] == "ready", 60)
    assert pair.here.status()["warnings"] == []
    assert pair.here("down").code == 0


def host_records(pair: Pair) -> list[str]:
    """The keys of what the hosts say of themselves."""
    ends = {"key": b"v1/dynamoctl/", "range_end": b"v1/dynamoctl0"}
    body = {name: base64.b64encode(end).decode() for name, end in ends.items()}
    status, text = pair.first.ask(f"{pair.etcd}/v3/kv/range", body, 30)
    assert status == 200, text
    return [base64.b64decode(entry["key"]).decode() for entry in json.loads(text).get("kvs", [])]


@pytest.mark.mocker
@pytest.mark.xdist_group("hosts-mockers")
def test_a_host_with_other_versions(pair: Pair, tmp_path: Path) -> None:
    """It is refused, before it starts anything, for as long as the first host is up."""
    other = tmp_path / "ai_dynamo-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ai-dynamo\nVersion: 9.9\n")
    updated = first_on_path(tmp_path)
    more = ("--engine", "mocker", "--timeout", "100")
    words = pair.words(pair.first, "frontend,agg", *more, mode="agg")
    up = pair.here(*words, cwd=None, patience_s=100)
    assert up.code == 0, up.err
    words = pair.words(pair.second, "agg", *more, mode="agg")
    refused = pair.there(*words, cwd=None, patience_s=100, PYTHONPATH=updated)
    assert refused.code == 3, refused.err
    assert f"{pair.first.address}, a host of this deployment, has other versions" in refused.err
    assert "ai-dynamo 9.9 here" in refused.err
    assert pair.there.ours() == {}
    joined = pair.there(*words, cwd=None, patience_s=100)
    assert joined.code == 0, joined.err
    assert len(host_records(pair)) == 2
    assert pair.here("down").code == 0
    assert pair.there("down").code == 0
    assert host_records(pair) == []
    alone = pair.there(*words, cwd=None, patience_s=100, PYTHONPATH=updated)
    assert alone.code == 0, alone.err
    assert pair.there("down").code == 0


@pytest.mark.mocker
class TestEtcd:
    """What `doctor`, and so `up`, says of a real etcd that wants to know who asks."""

    def doctor(self, pair: Pair, url: str, **env: str) -> tuple[int, list[str]]:
        """The exit code, and what is wrong with etcd."""
        found = ("--discovery", "etcd", "--etcd-endpoints", url)
        words = ("doctor", "disagg", "--engine", "mocker", "--json", *found)
        done = pair.here(*words, cwd=None, patience_s=PATIENCE_S, **env)
        findings = [one for one in done.json["findings"] if one["check"] == "etcd"]
        return done.code, [one["what"] for one in findings if one["level"] == "error"]

    def test_certificates(self, pair: Pair, tmp_path: Path) -> None:
        files = hosts.certificates(tmp_path, pair.first.address)
        server = ("--cert-file", str(files["server.crt"]), "--key-file", str(files["server.key"]))
        trusts = ("--client-cert-auth", "--trusted-ca-file", str(files["ca.crt"]))
        mine = (files[name] for name in ("ca.crt", "client.crt", "client.key"))
        ours = dict(zip(CERTIFICATES, map(str, mine), strict=True))
        with hosts.etcd(pair.first, tmp_path, *server, *trusts, scheme="https", port=23790) as etcd:
            assert self.doctor(pair, etcd.url, **ours) == (0, [])
            text = {name: Path(file).read_text() for name, file in ours.items()}
            assert self.doctor(pair, etcd.url, **text) == (0, [])
            code, (wrong,) = self.doctor(pair, etcd.url)
            assert (code, "not set: ETCD_AUTH_CA" in wrong) == (3, True)
            # Of another authority.
            (other := tmp_path / "other").mkdir()
            strange = hosts.certificates(other, pair.first.address)
            code, (wrong,) = self.doctor(pair, etcd.url, **{**ours, "ETCD_AUTH_CA": str(strange["ca.crt"])})
            assert (code, "certificate" in wrong) == (3, True), wrong

    def test_a_name_and_a_password(self, pair: Pair, tmp_path: Path) -> None:
        with hosts.etcd(pair.first, tmp_path, port=23790) as etcd:

            def tell(path: str, **body: object) -> None:
                status, text = pair.first.ask(f"{etcd.url}/v3/auth/{path}", body)
                assert status == 200, text

            for name in ("root", "dynamo"):
                tell("user/add", name=name, password="pw-1f6a")
                tell("role/add", name=name)
                tell("user/grant", user=name, role=name)
            below = {"permType": "READWRITE", "key": "djEv", "range_end": "djEw"}  # v1/ to v10, in base64
            tell("role/grant", name="dynamo", perm=below)
            tell("enable")
            login = {"ETCD_AUTH_USERNAME": "dynamo", "ETCD_AUTH_PASSWORD": "pw-1f6a"}
            assert self.doctor(pair, etcd.url, **login) == (0, [])
            code, (wrong,) = self.doctor(pair, etcd.url, **{**login, "ETCD_AUTH_PASSWORD": "another-2b7d"})
            assert (code, "authentication failed" in wrong) == (3, True)
            assert "another-2b7d" not in wrong
