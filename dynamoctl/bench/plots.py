"""Plots of results, by Matplotlib, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import DynamoctlError, PreflightError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPREAD = ("mean", "p50", "p95", "p99")
# Of the Okabe-Ito palette: they differ for people who see few colours, and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_COMPUTED, _LMCACHE, _ENGINE = "#999999", "#0072B2", "#E69F00"


def require() -> None:
    """See that plots can be made, before anything is measured.

    Raises:
        PreflightError: Matplotlib is not installed.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise PreflightError(
            "plots need Matplotlib, which is not installed",
            "install the extra bench: pip install 'dynamoctl[bench]'",
        )


def save(kind: str, body: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw a result and write it beside each other as PNG and as SVG.

    Args:
        kind: `bench`, `bench-compare` or `bench-tune`, as in the result's schema.
        path: with or without an ending.

    Raises:
        PreflightError: Matplotlib is not installed.
        DynamoctlError: a file cannot be written.
    """
    require()
    from matplotlib import rc_context

    draw = {"bench": _bench, "bench-compare": _compare, "bench-tune": _tune}[kind]
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    written = [stem.with_name(stem.name + ending) for ending in (".png", ".svg")]
    # The same result makes the same bytes.
    style: Any = {"svg.hashsalt": "dynamoctl", "svg.fonttype": "none", "font.size": 9}
    with rc_context(style):
        figure = draw(body)
        try:
            figure.savefig(written[0], dpi=150)
            figure.savefig(written[1], metadata={"Date": None})
        except OSError as error:
            raise DynamoctlError(f"cannot write {error.filename}: {error.strerror}") from None
    return written


def _bench(body: Mapping[str, Any]) -> Figure:
    """One deployment: latencies of each pass, and where its prompts' tokens came from."""
    from matplotlib.figure import Figure

    passes = body["passes"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    first, middle, last = figure.subplots(1, 3)
    labels = [one["label"] for one in passes]
    _spreads(first, labels, [one["ttft_s"] for one in passes], 1, "time to first token, s")
    gaps = [one["inter_token_latency_s"] for one in passes]
    _spreads(middle, labels, gaps, 1000, "inter-token latency, ms")
    _tokens(last, labels, passes)
    figure.suptitle(f"{body['workload']['kind']}: {body['mode']}, {body['model']}")
    return figure


def _compare(body: Mapping[str, Any]) -> Figure:
    """Variants side by side."""
    from matplotlib.figure import Figure

    good = [one for one in body["variants"] if one["bench"]]
    figure = Figure(figsize=(10, 1.6 + 0.5 * max(4, len(good))), layout="constrained")
    first, middle, last = figure.subplots(1, 3, sharey=True)
    names = [one["name"] for one in good]
    passes = [one["bench"]["passes"] for one in good]
    labels = [one["label"] for one in passes[0]] if passes else []
    high = 0.8 / max(1, len(labels))
    for number, label in enumerate(labels):
        at = [place + (number - (len(labels) - 1) / 2) * high for place in range(len(good))]
        means = [(one[number]["ttft_s"] or {}).get("mean", 0.0) for one in passes]
        bars = first.barh(at, means, high * 0.9, label=label, color=_COLOURS[number % len(_COLOURS)])
        first.bar_label(bars, fmt=_short, padding=2, fontsize=7)
    figure.legend(title="pass", fontsize=7, loc="outside lower left", ncols=4)
    first.set_title("mean time to first token, s")
    gaps = [(one["figures"]["inter_token_latency_p99_s"] or 0.0) * 1000 for one in good]
    tokens = [one["figures"]["total_tokens_per_s"] for one in good]
    for axes, values, title in ((middle, gaps, "inter-token latency p99, ms"), (last, tokens, "tokens/s")):
        axes.bar_label(axes.barh(names, values, 0.6, color=_COLOURS[2]), fmt=_short, padding=2, fontsize=7)
        axes.set_title(title)
    for axes in (first, middle, last):
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    first.set_yticks(range(len(names)), names)
    first.invert_yaxis()
    figure.suptitle(body["workload"]["kind"])
    return figure


def _tune(body: Mapping[str, Any]) -> Figure:
    """Time to first token over the chunk size, a curve for each size of the cache."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    good = [one for one in body["variants"] if one["figures"]]
    sizes = list(dict.fromkeys(one["cpu_gib"] for one in good))
    for number, gib in enumerate(sizes):
        row = sorted((one for one in good if one["cpu_gib"] == gib), key=lambda one: int(one["chunk_size"]))
        for key, line, words in (("ttft_first_s", "--", "first pass"), ("ttft_later_s", "-", "later passes")):
            points = [(one["chunk_size"], one["figures"][key]) for one in row if one["figures"][key]]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    f"o{line}",
                    color=_COLOURS[number % len(_COLOURS)],
                    label=f"{gib:g} GiB, {words}",
                )
    if best := next((one for one in good if one["name"] == body["best"]), None):
        took = best["figures"]["ttft_later_s"] or best["figures"]["ttft_first_s"]
        axes.plot(best["chunk_size"], took, "*", markersize=16, color="#D55E00", label="taken")
    axes.set_xscale("log", base=2)
    chunks = sorted({one["chunk_size"] for one in good})
    axes.set_xticks(chunks, [str(one) for one in chunks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("LMCache's chunk, tokens")
    axes.set_ylabel("mean time to first token, s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7)
    figure.suptitle(body["workload"]["kind"])
    return figure


def _spreads(
    axes: Axes,
    labels: Sequence[str],
    spreads: Sequence[Mapping[str, float] | None],
    factor: float,
    title: str,
) -> None:
    """Mean and percentiles as bars in groups, a colour for each pass."""
    wide = 0.8 / max(1, len(labels))
    for number, (label, one) in enumerate(zip(labels, spreads, strict=True)):
        if one is None:
            continue
        at = [place + (number - (len(labels) - 1) / 2) * wide for place in range(len(_SPREAD))]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.bar(at, [one[name] * factor for name in _SPREAD], wide * 0.9, label=label, color=colour)
    axes.set_xticks(range(len(_SPREAD)), _SPREAD)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, title="pass")


def _tokens(axes: Axes, labels: Sequence[str], passes: Sequence[Mapping[str, Any]]) -> None:
    """Where the prompts' tokens came from. What the engines had they do not ask LMCache for."""
    lmcache = [one["counted"]["lmcache_hit_tokens"] or 0 for one in passes]
    engine = [one["counted"]["prefix_hit_tokens"] or 0 for one in passes]
    rest = [max(0, one["prompt_tokens"] - a - b) for one, a, b in zip(passes, lmcache, engine, strict=True)]
    bottom = [0] * len(passes)
    for values, name, colour in (
        (rest, "computed", _COMPUTED),
        (lmcache, "from LMCache", _LMCACHE),
        (engine, "from the engine's own cache", _ENGINE),
    ):
        axes.bar(labels, values, 0.6, bottom=bottom, label=name, color=colour)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.set_title("tokens of the prompts")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)


def _short(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _legend(axes: Axes, title: str | None = None) -> None:
    """A legend above the bars."""
    axes.set_ylim(0, axes.dataLim.ymax * 1.4 or 1)
    axes.legend(title=title, fontsize=7, loc="upper left", ncols=2)
