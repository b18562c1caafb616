"""LMCache's tiers in process on one GPU: disk, a Redis that two workers share, GPUDirect Storage.

The engines' own prefix caches are emptied in between (or another worker is asked), and CPU memory is small,
so that a prompt that comes back comes out of the tier below.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli, chat, counter, first_on_path, free_port, wait_for
from tests.e2e.stores import BROKEN_LOADS, Redis
from tests.gpu.conftest import in_process, prove

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900), in_process]

MODEL = "smollm2-135m-instruct"
LONG = "The sea is wide and the sky is blue, said the sailor to his cat. " * 70
ENGINE = ("--", "--enforce-eager", "--gpu-memory-utilization", "0.3", "--max-model-len", "2048")
HITS = "vllm:external_prefix_cache_hits_total"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    one = Redis(free_port(), tmp_path_factory.mktemp("redis"), "a-password-of-redis")
    one.start()
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def taken_down(cli: Cli) -> Iterator[None]:
    yield
    assert cli("down").code == 0


def up(cli: Cli, *words: str, engine: tuple[str, ...] = ENGINE, **environ: str) -> str:
    port = free_port()
    line = ("up", "agg", "--model", MODEL, "--port", str(port), *words, *engine)
    done = cli(*line, cwd=None, patience_s=800, **environ)
    print(done.err)
    assert done.code == 0, done.err
    return f"http://127.0.0.1:{port}"


def test_the_disk_gives_back_what_cpu_memory_has_lost(cli: Cli, tmp_path: Path) -> None:
    tier = ("--lmcache-disk", str(tmp_path / "kv"), "--lmcache-disk-gb", "2")
    endpoint = up(cli, "--gpus", "0", "--lmcache-cpu-gb", "0.05", *tier)
    system = cli.units()["worker-0"]["ports"]["system"]
    first = chat(endpoint, MODEL, LONG, max_tokens=4)
    wait_for(lambda: list((tmp_path / "kv").rglob("*.pt")) or list((tmp_path / "kv").iterdir()))
    for word in ("river", "forest", "hill"):  # 0.05 GiB holds 2,300 tokens
        chat(endpoint, MODEL, LONG.replace("sea", word), max_tokens=4)
    prove(cli)
    before = counter(system, HITS)
    second = chat(endpoint, MODEL, LONG, max_tokens=4)
    after = counter(system, HITS)
    print(f"disk: {before} -> {after}; {first!r}, then {second!r}")
    assert after - before >= 512
    assert second == first


def test_what_one_worker_computed_hits_on_the_other_by_way_of_redis(cli: Cli, redis: Redis) -> None:
    endpoint = up(
        cli, "--gpus", "0,0", "--workers", "2", "--lmcache-cpu-gb", "2", "--lmcache-remote", redis.url
    )
    ports = [cli.units()[f"worker-{n}"]["ports"]["system"] for n in (0, 1)]
    keys = redis.keys()
    first = chat(endpoint, MODEL, LONG, max_tokens=4)
    wait_for(lambda: redis.keys() > keys)
    before = [counter(port, HITS) for port in ports]
    # Round robin: the next request goes to the other worker.
    second = chat(endpoint, MODEL, LONG, max_tokens=4)
    after = [counter(port, HITS) for port in ports]
    print(f"redis: {before} -> {after}; {first!r}, then {second!r}")
    assert sum(after) - sum(before) >= 512
    assert second == first
    redis.kill()
    wait_for(lambda: cli.status()["state"] == "degraded")
    assert chat(endpoint, MODEL, LONG.replace("sea", "river"), max_tokens=4)
    redis.start()
    wait_for(lambda: cli.status()["state"] == "ready")
    keys, words = redis.keys(), iter(("hill", "lake", "moor", "cape", "isle", "reef", "bay", "gulf"))

    def stored() -> bool:
        chat(endpoint, MODEL, LONG.replace("sea", next(words)), max_tokens=4)
        time.sleep(5)
        return redis.keys() > keys

    wait_for(stored)
    # LMCache writes the URL to its own log here; what is shown has no password.
    shown = subprocess.run(
        [sys.executable, "-m", "dynamoctl", "logs", "--lines", "0"],
        env=cli.env(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Creating Redis connector for URL" in shown.stdout
    assert "a-password-of-redis" not in shown.stdout


def test_what_lmcache_promises_and_does_not_bring_fails_and_is_no_answer(cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    path = first_on_path(BROKEN_LOADS)
    endpoint = up(
        cli, "--gpus", "0", "--lmcache-cpu-gb", "1", engine=(*ENGINE, "--no-enable-prefix-caching"),
        PYTHONPATH=path, BREAK_LOADS=str(broken),
    )  # fmt: skip
    system = cli.units()["worker-0"]["ports"]["system"]
    first = [chat(endpoint, MODEL, LONG, max_tokens=4) for _ in range(2)]
    broken.touch()
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError) as failed:
            chat(endpoint, MODEL, LONG, max_tokens=4)
        assert failed.value.code == 500
        failed.value.close()
    assert chat(endpoint, MODEL, LONG.replace("sea", "river"), max_tokens=4)  # nothing is promised
    broken.unlink()
    log = cli.home / "deployments/default/logs/worker-0.log"
    assert log.read_text(errors="replace").count("request(s) due to KV load failure") == 2
    before = counter(system, HITS)
    assert chat(endpoint, MODEL, LONG, max_tokens=4) == first[0] == first[1]
    assert counter(system, HITS) - before >= 512
    status = cli.status()
    assert status["units"][-1]["restarts"] == 0
    assert status["load"]["failed_requests_total"] == 2


def test_gpudirect_storage_hits_or_says_why_not(cli: Cli, tmp_path: Path) -> None:
    """Without the driver nvidia-fs, cuFile copies through CPU memory, and `up` warns of it."""
    port = free_port()
    done = cli(
        "up", "agg", "--model", MODEL, "--port", str(port), "--gpus", "0", "--lmcache-cpu-gb", "1",
        "--lmcache-gds", str(tmp_path), *ENGINE, patience_s=800,
    )  # fmt: skip
    print(done.err)
    if not Path("/proc/driver/nvidia-fs").exists():
        assert "nvidia-fs" in done.err
    if done.code != 0:
        assert done.code in (3, 4)
        assert "lmcache" in done.err.lower()
        return
    prove(cli)
    assert list(tmp_path.rglob("*"))


def test_a_cache_that_gives_back_something_else_is_not_served(cli: Cli, tmp_path: Path) -> None:
    """LMCache 0.5.3 as it is, without dynamoctl's patch."""
    (tmp_path / "sitecustomize.py").write_text(
        "from dynamoctl.patches import packed_kv\n"
        "packed_kv.around = lambda plain, layouts: lambda *words, **named: plain(*words, **named)\n"
    )
    path = first_on_path(tmp_path)
    done = cli(
        "up", "agg", "--model", MODEL, "--port", str(free_port()), "--gpus", "0", "--lmcache-cpu-gb", "1",
        *ENGINE, patience_s=800, PYTHONPATH=path,
    )  # fmt: skip
    print(done.err)
    assert done.code == 4
    assert "LMCache gives back another KV cache than it was given" in done.err
    assert "--lmcache-mode mp" in done.err


def test_lmcache_without_its_compiled_kernels_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    """As with a wheel that was built for another torch: the import fails, and LMCache goes on."""
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["lmcache.c_ops"] = None\n')
    path = first_on_path(tmp_path)
    up(cli, "--gpus", "0", "--lmcache-cpu-gb", "1", PYTHONPATH=path)
    warnings = cli.status()["warnings"]
    print(warnings)
    assert any("worker-0: LMCache works without its compiled kernels" in one for one in warnings)
