"""Watch deployments: their status, and the rates since the last look."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dynamoctl.answers.status import StatusAnswer
from dynamoctl.answers.watch import Rates, WatchAnswer
from dynamoctl.monitoring import rates
from dynamoctl.operations.status import Look, look

# Time span of the latency figures, in seconds: a single interval may have no request.
LATENCY_S = 30.0
# Time span of a sparkline, in seconds.
HISTORY_S = 120.0
# Shortest interval, in seconds: counters do not change faster, and each look costs some milliseconds.
LEAST_INTERVAL_S = 0.2


@dataclass(frozen=True)
class WatchedDeployment:
    """One deployment at one look.

    Attributes:
        status: what `status` answers.
        last: the change since the previous look; None at the first look, and if the deployment is down.
        recent: the changes of the last two minutes, oldest first.
    """

    status: StatusAnswer
    last: rates.Change | None = None
    recent: tuple[rates.Change, ...] = ()

    @property
    def latencies(self) -> rates.Change:
        """The change in the last `LATENCY_S` seconds, or in the last interval if that is longer."""
        chosen: list[rates.Change] = []
        for change in reversed(self.recent):
            if chosen and sum(each.seconds for each in chosen) + change.seconds > LATENCY_S:
                break
            chosen.append(change)
        return rates.together(chosen)

    @property
    def answer(self) -> WatchAnswer:
        """What a line of `status --watch --json` says."""
        return WatchAnswer(
            **vars(self.status), rates=None if self.last is None else _rates(self.last, self.latencies)
        )


def watch(names: Callable[[], list[str]], interval_s: float) -> Iterator[list[WatchedDeployment]]:
    """Look at deployments every `interval_s` seconds, forever.

    Args:
        names: returns the deployments' names; called at each look.
    """
    watched: dict[str, _Watched] = {}
    while True:
        began = time.monotonic()
        current = names()
        watched = {name: watched.get(name) or _Watched() for name in current}
        yield [watched[name].take(look(name)) for name in current]
        time.sleep(max(0.0, began + interval_s - time.monotonic()))


class _Watched:
    """The data of one deployment that is kept between two looks."""

    def __init__(self) -> None:
        self._start_id = ""
        self._sample: rates.Sample | None = None
        self._recent: deque[rates.Change] = deque()

    def take(self, now: Look) -> WatchedDeployment:
        state, answer = now.state, now.answer
        if state is None or answer is None or "taken_at" not in answer:
            self._sample = None
            if state is None or state.start_id != self._start_id:
                self._recent.clear()
            return WatchedDeployment(now.status, None, tuple(self._recent))
        if state.start_id != self._start_id:
            self._start_id, self._sample = state.start_id, None
            self._recent.clear()
        started = {unit.name: unit.started_at for unit in state.units}
        new = rates.sample(float(answer["taken_at"]), started, answer)
        last = rates.change(self._sample, new) if self._sample is not None else None
        self._sample = new
        if last is not None:
            self._recent.append(last)
            while sum(change.seconds for change in self._recent) > HISTORY_S:
                self._recent.popleft()
        return WatchedDeployment(now.status, last, tuple(self._recent))


def _rates(last: rates.Change, latencies: rates.Change) -> Rates:
    values = {
        "interval_s": last.seconds,
        "requests_per_s": last.per_second("requests"),
        "failed_requests_per_s": last.per_second("failed_requests"),
        "prompt_tokens_per_s": last.per_second("prompt_tokens"),
        "generation_tokens_per_s": last.per_second("generation_tokens"),
        "cache_hit_rate": last.ratio("hit_tokens", "requested_tokens"),
        "transfers_per_s": last.per_second("transfers"),
        "transferred_bytes_per_s": last.per_second("transferred_bytes"),
        "latency_interval_s": latencies.seconds,
        "ttft_p50_s": latencies.quantile("ttft", 0.5),
        "ttft_p95_s": latencies.quantile("ttft", 0.95),
        "inter_token_latency_p50_s": latencies.quantile("inter_token_latency", 0.5),
        "inter_token_latency_p95_s": latencies.quantile("inter_token_latency", 0.95),
    }
    return Rates(**{name: None if value is None else round(value, 6) for name, value in values.items()})
