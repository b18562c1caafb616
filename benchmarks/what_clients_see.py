"""What clients of a deployment see, second by second: short requests, one long stream, the list of models."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

MODEL = "smollm2-135m-instruct"
API_PORT = 28417
PATIENCE_S = 120.0
LISTING_PATIENCE_S = 5.0
PAUSE_S = 3.0
# Long enough for a chunk of LMCache's.
SEA = "The sea is wide and the sky is blue, said the sailor to his cat. " * 18


def request(method: str, path: str, body: dict[str, Any], patience_s: float) -> http.client.HTTPResponse:
    """What the frontend answers."""
    connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=patience_s)
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def completion(**more: object) -> http.client.HTTPResponse:
    """One request with a prompt that no cache knows."""
    body = {"model": MODEL, "prompt": f"{time.time()} {SEA}", "ignore_eos": True, **more}
    return request("POST", "/v1/completions", body, PATIENCE_S)


def outcome() -> str:
    """The status of a short request, or what happened to its connection; with the time, if it is long."""
    began = time.monotonic()
    try:
        answer = completion(max_tokens=4)
        text = answer.read().decode()
        seen = str(answer.status) if answer.status == 200 else f"{answer.status} {text[:90]}"
    except (OSError, http.client.HTTPException) as error:
        seen = type(error).__name__
    seconds = time.monotonic() - began
    return seen + (f" after {seconds:.0f} s" if seconds > 2 else "")


def listing() -> dict[str, str]:
    """Whether the frontend lists the model."""
    try:
        answer = request("GET", "/v1/models", {}, LISTING_PATIENCE_S)
        status, models = answer.status, json.loads(answer.read()).get("data")
        seen = "lists the model" if models else "lists nothing" if status == 200 else str(status)
    except (OSError, http.client.HTTPException, ValueError) as error:
        seen = type(error).__name__
    return {"GET /v1/models": seen}


class Watch:
    """Notes what clients see, and every change of what `states` returns.

    Attributes:
        seen: when (`time.monotonic()`), of what, and what.
    """

    def __init__(self, states: Callable[[], dict[str, str]], every_s: float) -> None:
        self.seen: list[tuple[float, str, str]] = []
        self.every_s, self.over = every_s, threading.Event()
        looks = (partial(self._look, listing), partial(self._look, states))
        self.threads = [threading.Thread(target=each) for each in (*looks, self._ask, self._stream)]
        for thread in self.threads:
            thread.daemon = True
            thread.start()

    def note(self, name: str, text: str) -> None:
        """Something that has happened now."""
        self.seen.append((time.monotonic(), name, text))

    def end(self) -> None:
        """Send no more; wait for the answers."""
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE_S)

    def report(self) -> None:
        """Print it all; equal outcomes of requests that were sent one after the other are one line."""
        zero = next(second for second, name, _ in self.seen if name == "fault")
        seen = sorted((second - zero, name, text) for second, name, text in self.seen)
        for text, same in groupby((one for one in seen if one[1] == "request"), key=lambda one: one[2]):
            sent = [second for second, _, _ in same]
            print(f"requests sent at {sent[0]:.1f} to {sent[-1]:.1f}: {len(sent)} x {text}")
        for second, name, text in (one for one in seen if one[1] != "request"):
            print(f"{second:7.1f} {name}: {text}", flush=True)

    def _look(self, states: Callable[[], dict[str, str]]) -> None:
        last: dict[str, str] = {}
        while not self.over.wait(0.2):
            now = states()
            for name in now.keys() | last.keys():
                if now.get(name) != last.get(name):
                    self.note(name, now.get(name, "gone"))
            last = now

    def _ask(self) -> None:
        while not self.over.wait(self.every_s):
            thread = threading.Thread(target=self._one, args=(time.monotonic(),), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _one(self, sent: float) -> None:
        self.seen.append((sent, "request", outcome()))

    def _stream(self) -> None:
        last, events, end = time.monotonic(), 0, "without [DONE]"
        try:
            for line in filter(bytes.strip, completion(max_tokens=1600, stream=True)):
                if self.over.is_set():
                    return
                now = time.monotonic()
                if now - last > PAUSE_S:
                    self.note("stream", f"goes on after a pause of {now - last:.1f} s")
                last, events, end = now, events + 1, line.decode().strip()[-60:]
                if b'"error"' in line:
                    self.note("stream", line.decode().strip()[:150])
        except (OSError, http.client.HTTPException) as error:
            end = type(error).__name__
        self.note("stream", f"ended {time.monotonic() - last:.1f} s after event {events}: {end}")
