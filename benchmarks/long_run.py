"""Hours of mixed load on real vLLM with LMCache's server, a disk tier and Redis: what grows, what is wrong?

    DYNAMOCTL_HOME=NEW python benchmarks/long_run.py --json FILE [--minutes 125] [--row 15] [--every 8]

`up agg` on the CPU with small tiers, so that hits come from the engine, from LMCache's memory, its disk and
Redis. The load: short chats, streamed ones, long prompts that repeat, some with a salt, new ones, clients
that disconnect, invalid requests, `n` 2. What the engine answers to each known prompt with a new salt at the
beginning is the reference. A later answer is wrong if a log probability differs by more than 0.02, up to the
first token that differs, or if its length differs. FILE is written after each row.
SIGTERM ends it with a last one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from command import run
from who_notices import REDIS_PORT, redis

MODEL, API_PORT = "smollm2-135m-instruct", 28457
PATIENCE_S = 600.0
TIE = 0.02
AT_ONCE = 3
DISK_GB, REDIS_MB = 0.4, 1000
# The engine's own cache: 40 blocks of 128 tokens.
UP = f"agg --device cpu --lmcache-cpu-gb 0.2 --lmcache-disk-gb {DISK_GB} --port {API_PORT}"
ENGINE = ["--", "--num-gpu-blocks-override", "40"]
LONG_PROMPTS = 18
SALTS = ("north", "south", "east")
QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    "Why is the sky blue?",
    "Write one sentence about a cat.",
    "What does a baker do?",
    "Count from one to five.",
)
THINGS = ("boat", "river", "tower", "garden", "letter", "window", "horse", "market", "bridge", "candle")
LOAD = {"long": 36, "salt": 10, "new": 8, "chat": 13, "stream": 14, "disconnect": 8, "invalid": 5, "n": 6}
COUNTED = {
    "asked": "lmcache_mp_lookup_requested_tokens_total",
    "memory": "lmcache_mp_lookup_hit_l1_tokens_total",
    "second level": "lmcache_mp_lookup_hit_l2_tokens_total",
    "engine": "vllm:prefix_cache_hits_total",
    "engine asked": "vllm:prefix_cache_queries_total",
}
LOADS = "lmcache_mp_l2_"
Answer = list[tuple[str, float]]


def text_of(number: int, words: int) -> str:
    """A long prompt, always the same for a number."""
    pick = random.Random(number)
    parts = [f"Story {number}."]
    while sum(len(part.split()) for part in parts) < words:
        one, two, three = pick.sample(THINGS, 3)
        parts.append(f"On day {pick.randint(2, 999)} the {one} stood near the {two}, behind a {three}.")
    return " ".join(parts)


def long_prompt(number: int) -> str:
    """One of the prompts that repeat: of some 350 to 1,300 tokens."""
    return text_of(number, 220 + 650 * number // LONG_PROMPTS)


def post(path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
    """What the frontend answers."""
    connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=PATIENCE_S)
    connection.request(
        "POST", path, json.dumps({"model": MODEL, **body}), {"Content-Type": "application/json"}
    )
    return connection.getresponse()


def whole(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer.

    Raises:
        ValueError: it is not a good one.
    """
    answer = post(path, body)
    text = answer.read().decode()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {text[:120]}")
    read: dict[str, Any] = json.loads(text)
    if not all(choice["finish_reason"] for choice in read["choices"]):
        raise ValueError("no finish_reason")
    return read


def events(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a streamed chat.

    Raises:
        ValueError: it is refused, or an event says an error.
    """
    answer = post("/v1/chat/completions", body | {"stream": True})
    if answer.status != 200:
        raise ValueError(str(answer.status))
    with closing(answer):
        for line in answer:
            name, _, value = line.decode().strip().partition(":")
            if name == "data" and value.strip() != "[DONE]":
                event = json.loads(value)
                if "error" in event:
                    raise ValueError(value[:120])
                yield event


def completed(number: int, **more: object) -> Answer:
    """The greedy tokens that follow a long prompt, with their log probabilities."""
    body = {"prompt": long_prompt(number), "max_tokens": 16, "temperature": 0, "logprobs": 1, **more}
    told = whole("/v1/completions", body)["choices"][0]["logprobs"]
    return list(zip(told["tokens"], told["token_logprobs"], strict=True))


def chat_of(question: str, **more: object) -> dict[str, Any]:
    """The body of a greedy chat."""
    message = {"role": "user", "content": question}
    return {"messages": [message], "max_tokens": 24, "temperature": 0, **more}


def chatted(question: str, **more: object) -> Answer:
    """The greedy tokens of a chat, with their log probabilities."""
    told = whole("/v1/chat/completions", chat_of(question, logprobs=True, top_logprobs=1, **more))
    return [(part["token"], part["logprob"]) for part in told["choices"][0]["logprobs"]["content"]]


def difference(reference: Answer, answer: Answer) -> float:
    """How far log probabilities are apart up to the first other token; 99 for another length."""
    apart = 0.0
    for (token, one), (other, two) in zip(reference, answer, strict=False):
        apart = max(apart, abs(one - two))
        if token != other:
            return apart
    return apart if len(reference) == len(answer) else 99.0


@dataclass
class Quarter:
    """What was seen since the last row."""

    sent: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    compared: int = 0
    apart: float = 0.0
    ttft: list[float] = field(default_factory=list)


class Load:
    """The clients."""

    def __init__(self, over: threading.Event) -> None:
        self.quarter, self.lock, self.pick = Quarter(), threading.Lock(), random.Random(1)
        self.places, self.over = threading.Semaphore(AT_ONCE), over
        self.long = {
            number: completed(number, cache_salt=f"reference-{number}") for number in range(LONG_PROMPTS)
        }
        self.chats = {question: chatted(question) for question in QUESTIONS}
        self.new = LONG_PROMPTS

    def taken(self) -> Quarter:
        """The quarter that ends, and a new one in its place."""
        with self.lock:
            quarter, self.quarter = self.quarter, Quarter()
        return quarter

    def one(self, kind: str) -> None:
        """One request."""
        with self.lock:
            number = min(self.pick.randrange(LONG_PROMPTS), self.pick.randrange(LONG_PROMPTS))
            question, salt, moment = (
                self.pick.choice(QUESTIONS),
                self.pick.choice(SALTS),
                self.pick.uniform(0, 3),
            )
            self.new += 1
            new = self.new
            self.quarter.sent[kind] += 1
        try:
            if kind == "long":
                self.compare(f"long {number}", self.long[number], completed(number))
            elif kind == "salt":
                self.compare(f"{salt} {number}", self.long[number], completed(number, cache_salt=salt))
            elif kind == "new":
                whole("/v1/completions", {"prompt": text_of(new, 700), "max_tokens": 8})
            elif kind == "chat":
                self.compare(question, self.chats[question], chatted(question))
            elif kind == "stream":
                self.streamed(question)
            elif kind == "disconnect":
                self.disconnected(text_of(new, 400), moment)
            elif kind == "invalid":
                refused = {"prompt": "x", "max_tokens": -1} if new % 2 else {"prompt": long_prompt(1) * 20}
                if (status := post("/v1/completions", refused).status) != 400:
                    raise ValueError(f"invalid, and answered with {status}")
            elif (
                len(
                    whole("/v1/completions", {"prompt": text_of(new, 60), "max_tokens": 16, "n": 2})[
                        "choices"
                    ]
                )
                != 2
            ):
                raise ValueError("n 2 brought other than two answers")
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            with self.lock:
                self.quarter.failed.append(f"{time.strftime('%H:%M:%S')} {kind}: {error!r}"[:200])
        finally:
            self.places.release()

    def compare(self, name: str, reference: Answer, answer: Answer) -> None:
        """Hold an answer against its reference."""
        apart = difference(reference, answer)
        with self.lock:
            self.quarter.compared += 1
            self.quarter.apart = max(self.quarter.apart, apart)
            if apart > TIE:
                self.quarter.wrong.append(f"{name}: {apart:.3f} {answer} instead of {reference}")

    def streamed(self, question: str) -> None:
        """A streamed chat."""
        began, first, text, ended = time.monotonic(), 0.0, "", ""
        for event in events(chat_of(question)):
            for choice in event["choices"]:
                first = first or time.monotonic() - began
                text += choice["delta"].get("content") or ""
                ended = choice.get("finish_reason") or ended
        if not ended:
            raise ValueError("a stream without finish_reason")
        with self.lock:
            self.quarter.ttft.append(first)
            self.quarter.compared += 1
            if text != "".join(token for token, _ in self.chats[question]):
                self.quarter.wrong.append(f"stream: {text!r}")

    def disconnected(self, question: str, moment: float) -> None:
        """A client that goes away."""
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 400, "ignore_eos": True}
        if moment < 1:
            connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=PATIENCE_S)
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": MODEL, **body}))
            time.sleep(moment)
            connection.close()
            return
        for came, _ in enumerate(events(body)):
            if came > 10 * moment:
                return

    def send(self, seconds: float, every_s: float) -> None:
        """Send for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.over.wait(min(left, self.pick.expovariate(1 / every_s))):
                return
            kind = self.pick.choices(list(LOAD), list(LOAD.values()))[0]
            self.places.acquire()
            threading.Thread(target=self.one, args=(kind,), daemon=True).start()


def scraped(port: int) -> str:
    """A process's metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


def size(folder: Path) -> int:
    """What the files in a folder hold, in MiB."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total >> 20


def redis_mib() -> int:
    """What Redis holds."""
    with socket.create_connection(("127.0.0.1", REDIS_PORT), timeout=PATIENCE_S) as connection:
        connection.sendall(b"INFO memory\r\n")
        found = re.search(rb"used_memory:(\d+)", connection.recv(1 << 16))
    return int(found[1]) >> 20 if found else 0


class Figures:
    """What the deployment's processes show."""

    def __init__(self, home: Path, store: psutil.Popen) -> None:
        self.home, self.store = home, store
        self.folder = home / "deployments/default"
        self.last: Counter[str] = Counter()

    def processes(self) -> dict[str, psutil.Process]:
        """Each process of the deployment by name."""
        body = json.loads((self.folder / "state.json").read_text())
        found = {unit["name"]: psutil.Process(unit["identity"]["pid"]) for unit in body["units"]}
        for child in found["worker-0"].children(recursive=True):
            words = child.cmdline()
            if words and words[0].startswith("VLLM::"):
                found[words[0].removeprefix("VLLM::")] = child
        return found | {"supervisor": psutil.Process(body["supervisor"]["pid"]), "redis": self.store}

    def hits(self) -> dict[str, int]:
        """Tokens that were asked for and found, and chunks that were loaded, since the last time."""
        units = {
            unit["name"]: unit["ports"]
            for unit in json.loads((self.folder / "state.json").read_text())["units"]
        }
        text = scraped(units["lmcache"]["http"]) + scraped(units["worker-0"]["system"])
        now: Counter[str] = Counter()
        for name, labels, value in re.findall(r"^([\w:]+)(?:\{(.*)\})? ([\d.e+]+)$", text, re.MULTILINE):
            for word, metric in COUNTED.items():
                if name == metric:
                    now[word] += int(float(value))
            if name.startswith(LOADS) and name.endswith("_total"):
                now[f"{name} {labels}"] += int(float(value))
        # A process that was started again counts from 0.
        since = {
            name: count - (self.last[name] if self.last[name] <= count else 0) for name, count in now.items()
        }
        self.last = now
        return since

    def row(self, quarter: Quarter, began: float) -> dict[str, Any]:
        """One row."""
        processes = self.processes()
        return {
            "minutes": round((time.monotonic() - began) / 60, 1),
            "clock": time.strftime("%H:%M:%S", time.gmtime()),
            "requests": sum(quarter.sent.values()),
            "by_kind": dict(quarter.sent),
            "failed": quarter.failed,
            "compared": quarter.compared,
            "wrong": quarter.wrong,
            "log_probabilities_apart": quarter.apart,
            "ttft_p50_s": round(statistics.median(quarter.ttft), 2) if quarter.ttft else None,
            "resident_mib": {name: one.memory_info().rss >> 20 for name, one in processes.items()},
            "descriptors": {name: one.num_fds() for name, one in processes.items()},
            "threads": {name: one.num_threads() for name, one in processes.items()},
            "disk_tier_mib": size(self.home / "tier"),
            "redis_mib": redis_mib(),
            "deployment_folder_mib": size(self.folder),
            "shared_memory_mib": size(Path("/dev/shm")),
            "hits": self.hits(),
            "status": run(self.environ(), "status", "--json")["state"],
            "load_average": os.getloadavg()[2],
        }

    def environ(self) -> dict[str, str]:
        """The environment of dynamoctl's commands."""
        return {**os.environ, "DYNAMOCTL_HOME": str(self.home)}


def main() -> None:
    """Start, load, write a row now and then, take down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=125)
    parser.add_argument("--row", type=float, default=15, help="minutes of a row")
    parser.add_argument("--every", type=float, default=8, help="mean seconds between requests")
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    home = Path(os.environ["DYNAMOCTL_HOME"])
    home.mkdir(parents=True)
    store = redis(home)
    figures = Figures(home, store)
    try:
        time.sleep(1)
        with socket.create_connection(("127.0.0.1", REDIS_PORT)) as connection:
            for words in (f"maxmemory {REDIS_MB}mb", "maxmemory-policy allkeys-lru"):
                connection.sendall(f"CONFIG SET {words}\r\n".encode())
                print(connection.recv(99))
        tiers = ["--lmcache-disk", str(home / "tier"), "--lmcache-remote", f"redis://127.0.0.1:{REDIS_PORT}"]
        run(figures.environ(), "up", *UP.split(), *tiers, "--json", *ENGINE)
        load, began = Load(over), time.monotonic()
        rows = [figures.row(load.taken(), began)]
        while time.monotonic() - began < 60 * asked.minutes and not over.is_set():
            load.send(60 * asked.row, asked.every)
            rows.append(figures.row(load.taken(), began))
            print(json.dumps(rows[-1]), flush=True)
            asked.json.write_text(
                json.dumps({"mean_seconds_between_requests": asked.every, "rows": rows}, indent=1)
            )
    finally:
        run(figures.environ(), "down", "--json")
        store.kill()
        store.wait()


if __name__ == "__main__":
    main()
