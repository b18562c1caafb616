"""The panels of the Grafana dashboard: what each shows, and its PromQL.

Each panel's description is also a row of docs/observability.md. The metrics are those of Dynamo 1.4, vLLM
0.26 and LMCache 0.5; `deployment`, `unit` and `role` are the targets' labels.
"""

from __future__ import annotations

from dataclasses import dataclass

# The frontend serves the deployment as a whole: which units are chosen makes no difference to it.
ALL = 'deployment=~"$deployment"'
_UNIT = f'{ALL},unit=~"$unit"'
# On a decode worker, vLLM counts what NIXL brought as hits; LMCache is on the others.
_CACHING = f'{_UNIT},role=~"agg|prefill"'
_QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        means: what it shows, and what to look for.
        unit: one of Grafana's units.
        most: the end of the scale, if it has one.
    """

    title: str
    means: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    most: float | None = None


def _rate(metric: str, labels: str) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def _rate_from_zero(metric: str, further: str = "") -> str:
    """The rate of a counter of the frontend whose series appear with their first event.

    It has one series for each type of error, for example. `rate` takes the first value of a series as its
    beginning, so a first burst of 200 errors would be a rate of 0. Here a series that was not there an
    interval ago, though its unit was scraped, has counted from 0.
    """
    counter = f"{metric}{{{ALL}{further}}}"
    before = "offset $__rate_interval"
    known = f"{_rate(metric, ALL + further)} and {counter} {before}"
    new = (
        f"{counter} * 1000 / $__rate_interval_ms"
        f" and on (deployment, unit) up{{{ALL}}} {before} unless {counter} {before}"
    )
    return f"({known} or {new})"


def _by(labels: str, what: str) -> str:
    return f"sum by ({labels}) ({what})"


def _quantiles(histogram: str, labels: str, by: str) -> tuple[Query, ...]:
    buckets = _by(f"{by}, le", _rate(f"{histogram}_bucket", labels))
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return tuple(Query(f"histogram_quantile({q}, {buckets})", f"{legend} {name}") for q, name in _QUANTILES)


def _share(part: str, whole: str, labels: str) -> str:
    """Of two counters; nothing where nothing was counted."""
    of, all_of = (_by("deployment", _rate(metric, labels)) for metric in (part, whole))
    return f"{of} / ({all_of} > 0)"


_EACH = "deployment, unit"
_EACH_LEGEND = "{{deployment}} {{unit}}"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Units",
        (
            Panel(
                "Up",
                "Whether Prometheus reaches each unit. 0 while a unit is restarted, or hangs.",
                "none",
                (Query(f"max by ({_EACH}) (up{{{_UNIT}}})", _EACH_LEGEND),),
                kind="stat",
                most=1,
            ),
        ),
    ),
    (
        "Requests, as the frontend sees them",
        (
            Panel(
                "Time to first token",
                "From the request's arrival to its first token, of streamed and other requests. It rises with"
                " long prompts, with a queue, and where the cache stops hitting. A request that ended without"
                " a token is not in it: clients that give up in a queue make it look better.",
                "s",
                _quantiles("dynamo_frontend_time_to_first_token_seconds", ALL, "deployment"),
            ),
            Panel(
                "Inter-token latency",
                "Between one token of an answer and the next. It rises with the number of requests that run"
                " together, and, aggregated, with prompts that come in between. Of a request with several"
                " answers (a list of prompts, or `n`), it is the time between tokens of any: too low.",
                "s",
                _quantiles("dynamo_frontend_inter_token_latency_seconds", ALL, "deployment"),
            ),
            Panel(
                "Requests per second",
                "Requests that ended, by how. `error` includes refused requests and clients that"
                " disconnected. Not counted: a request that cannot be parsed (400), one while no model is"
                " listed (404), and one whose client has disconnected before the frontend began with it.",
                "reqps",
                (
                    Query(
                        _by("deployment, status", _rate_from_zero("dynamo_frontend_requests_total")),
                        "{{deployment}} {{status}}",
                    ),
                ),
            ),
            Panel(
                "Errors per second",
                "Requests that did not end well, by type. `cancelled`: the client disconnected. `validation`"
                " and `not_found`: the client's request was refused. Any other type needs a look at the logs."
                " While no model is listed, the frontend refuses every request and counts none.",
                "reqps",
                (
                    Query(
                        _by(
                            "deployment, error_type",
                            _rate_from_zero("dynamo_frontend_requests_total", ',status="error"'),
                        ),
                        "{{deployment}} {{error_type}}",
                    ),
                ),
            ),
            Panel(
                "Requests moved",
                "Requests that the frontend moved to another worker because their own had died, since the"
                " frontend was started. `ongoing_request`: in the middle of the answer. `new_request`: before"
                " the first token. A move that no other worker could take, or that the migration limit"
                " forbids (as with one worker), counts too, and is an error as well. Nothing is shown before"
                " the first.",
                "none",
                (
                    Query(
                        # No rate: a counter that begins with its first burst has none for it.
                        _by("deployment, migration_type", f"dynamo_frontend_model_migration_total{{{ALL}}}"),
                        "{{deployment}} {{migration_type}}",
                    ),
                ),
            ),
            Panel(
                "Requests in the frontend",
                "In flight: not ended yet. Queued: those of them without a first token. A queue that does not"
                " go down is more than the workers can do.",
                "none",
                (
                    Query(
                        _by("deployment", f"dynamo_frontend_inflight_requests{{{ALL}}}"),
                        "{{deployment}} in flight",
                    ),
                    Query(
                        _by("deployment", f"dynamo_frontend_queued_requests{{{ALL}}}"),
                        "{{deployment}} queued",
                    ),
                ),
            ),
            Panel(
                "Tokens per second",
                "Tokens of prompts whose answers have begun, counted at the first token, and of answers that"
                " went out. Of a request with a list of prompts, the frontend counts one prompt and all"
                " answers.",
                "none",
                (
                    Query(
                        _by("deployment", _rate("dynamo_frontend_input_sequence_tokens_sum", ALL)),
                        "{{deployment}} prompt",
                    ),
                    Query(
                        _by("deployment", _rate("dynamo_frontend_output_tokens_total", ALL)),
                        "{{deployment}} answer",
                    ),
                ),
            ),
        ),
    ),
    (
        "Workers",
        (
            Panel(
                "Requests running and waiting",
                "In each engine's batch, and before it. Waiting: no room in the KV cache or in the batch, or"
                " a KV transfer that is not there yet.",
                "none",
                (
                    Query(_by(_EACH, f"vllm:num_requests_running{{{_UNIT}}}"), f"{_EACH_LEGEND} running"),
                    Query(_by(_EACH, f"vllm:num_requests_waiting{{{_UNIT}}}"), f"{_EACH_LEGEND} waiting"),
                ),
            ),
            Panel(
                "Prompt tokens per second",
                "Tokens of prompts that each engine took in, cached ones too. Disaggregated, prefill and"
                " decode each count a prompt. Of a request with `n`, the prompt counts `n` times.",
                "none",
                (Query(_by(_EACH, _rate("vllm:prompt_tokens_total", _UNIT)), _EACH_LEGEND),),
            ),
            Panel(
                "Generated tokens per second",
                "Tokens that each engine wrote. A prefill worker writes one for each request.",
                "none",
                (Query(_by(_EACH, _rate("vllm:generation_tokens_total", _UNIT)), _EACH_LEGEND),),
            ),
            Panel(
                "KV cache usage",
                "The part of each engine's own KV cache that requests use now. Near 100 % requests wait or"
                " are preempted.",
                "percentunit",
                (Query(f"max by ({_EACH}) (vllm:kv_cache_usage_perc{{{_UNIT}}})", _EACH_LEGEND),),
                most=1,
            ),
            Panel(
                "Preemptions per second",
                "Requests that an engine put off for want of KV cache, to compute them again. More than none"
                " now and then: give it more KV cache, or fewer requests at once.",
                "none",
                (Query(_by(_EACH, _rate("vllm:num_preemptions_total", _UNIT)), _EACH_LEGEND),),
            ),
        ),
    ),
    (
        "Cache",
        (
            Panel(
                "LMCache hit tokens per second",
                "Tokens that LMCache gave back, and those that the engine's own prefix cache did not have.",
                "none",
                (
                    Query(
                        _by(_EACH, _rate("vllm:external_prefix_cache_hits_total", _CACHING)),
                        f"{_EACH_LEGEND} hit",
                    ),
                    Query(
                        _by(_EACH, _rate("vllm:external_prefix_cache_queries_total", _CACHING)),
                        f"{_EACH_LEGEND} asked",
                    ),
                ),
            ),
            Panel(
                "Cache hit rate",
                "LMCache: hit tokens by asked tokens, in process and with a server alike. Engine: the same of"
                " vLLM's own prefix cache, which is asked first. Nothing is shown where nothing was asked.",
                "percentunit",
                (
                    Query(
                        _share(
                            "vllm:external_prefix_cache_hits_total",
                            "vllm:external_prefix_cache_queries_total",
                            _CACHING,
                        ),
                        "{{deployment}} LMCache",
                    ),
                    Query(
                        _share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", _CACHING),
                        "{{deployment}} engine",
                    ),
                ),
                most=1,
            ),
            Panel(
                "LMCache server: hit rate",
                "What the server itself counts: found tokens by looked up tokens, whole chunks only. It is"
                " also asked for what the engine's own cache has: a high rate here beside a low one of"
                " LMCache in Cache hit rate means that the engine needed little from it.",
                "percentunit",
                (
                    Query(
                        _share(
                            "lmcache_mp_lookup_hit_tokens_total",
                            "lmcache_mp_lookup_requested_tokens_total",
                            _UNIT,
                        ),
                        "{{deployment}}",
                    ),
                ),
                most=1,
            ),
            Panel(
                "LMCache server: CPU memory",
                "Bytes of KV cache that the server holds. Full is normal: then the least recently used goes.",
                "bytes",
                (Query(_by(_EACH, f"lmcache_mp_l1_memory_usage_bytes{{{_UNIT}}}"), _EACH_LEGEND),),
            ),
        ),
    ),
    (
        "KV transfers by NIXL, from prefill to decode",
        (
            Panel(
                "Transfers per second",
                "Transfers that each worker finished: one for each request that was prefilled elsewhere, and"
                " `n` for one with `n`.",
                "ops",
                (Query(_by(_EACH, _rate("vllm:nixl_xfer_time_seconds_count", _UNIT)), _EACH_LEGEND),),
            ),
            Panel(
                "Bytes per second",
                "What they moved: whole blocks, and only those that the decode worker's own cache does not"
                " have.",
                "Bps",
                (Query(_by(_EACH, _rate("vllm:nixl_bytes_transferred_sum", _UNIT)), _EACH_LEGEND),),
            ),
            Panel(
                "Transfer time",
                "How long one takes. It is part of the time to first token.",
                "s",
                _quantiles("vllm:nixl_xfer_time_seconds", _UNIT, "deployment"),
            ),
            Panel(
                "Failed transfers per second",
                "Transfers and notifications that failed, and requests whose blocks nobody fetched in time."
                " None is right, except that of a request with `n`, all but one expire on prefill.",
                "ops",
                (
                    Query(
                        _by(_EACH, _rate("vllm:nixl_num_failed_transfers_total", _UNIT)),
                        f"{_EACH_LEGEND} transfers",
                    ),
                    Query(
                        _by(_EACH, _rate("vllm:nixl_num_failed_notifications_total", _UNIT)),
                        f"{_EACH_LEGEND} notifications",
                    ),
                    Query(
                        _by(_EACH, _rate("vllm:nixl_num_kv_expired_reqs_total", _UNIT)),
                        f"{_EACH_LEGEND} expired",
                    ),
                ),
            ),
        ),
    ),
)
