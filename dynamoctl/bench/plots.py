"""Plots of benchmark results as PNG and SVG, made with Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import DynamoctlError, PreflightError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPREAD = ("mean", "p50", "p95", "p99")
# The Okabe-Ito palette, whose colours differ for people with colour blindness and in greyscale.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_COMPUTED, _LMCACHE, _ENGINE = "#999999", "#0072B2", "#E69F00"


def require() -> None:
    """Check that plots can be made, before anything is measured.

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
    """Draw a result and write it as PNG and as SVG, next to each other.

    Args:
        kind: `bench`, `bench-compare` or `bench-tune`, as in the result's schema.
        body: the result, as in its JSON file.
        path: path of the plots, with or without a suffix.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        PreflightError: Matplotlib is not installed.
        DynamoctlError: a file cannot be written.
    """
    require()
    from matplotlib import rc_context

    draw = {"bench": _bench, "bench-compare": _compare, "bench-tune": _tune}[kind]
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    written = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    # With a fixed salt, the same result gives the same bytes.
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
    """Plot one deployment: latencies of each pass, and where the tokens of its prompts came from."""
    from matplotlib.figure import Figure

    passes = body["passes"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    first, middle, last = figure.subplots(1, 3)
    labels = [pass_["label"] for pass_ in passes]
    _spreads(first, labels, [pass_["ttft_s"] for pass_ in passes], 1, "time to first token, s")
    gaps = [pass_["inter_token_latency_s"] for pass_ in passes]
    _spreads(middle, labels, gaps, 1000, "inter-token latency, ms")
    _tokens(last, labels, passes)
    figure.suptitle(f"{body['workload']['kind']}: {body['mode']}, {body['model']}")
    return figure


def _compare(body: Mapping[str, Any]) -> Figure:
    """Plot variants side by side."""
    from matplotlib.figure import Figure

    measured = [variant for variant in body["variants"] if variant["bench"]]
    figure = Figure(figsize=(10, 1.6 + 0.5 * max(4, len(measured))), layout="constrained")
    first, middle, last = figure.subplots(1, 3, sharey=True)
    names = [variant["name"] for variant in measured]
    passes = [variant["bench"]["passes"] for variant in measured]
    labels = [pass_["label"] for pass_ in passes[0]] if passes else []
    height = 0.8 / max(1, len(labels))
    for number, label in enumerate(labels):
        at = [place + (number - (len(labels) - 1) / 2) * height for place in range(len(measured))]
        means = [(of_variant[number]["ttft_s"] or {}).get("mean", 0.0) for of_variant in passes]
        bars = first.barh(at, means, height * 0.9, label=label, color=_COLOURS[number % len(_COLOURS)])
        first.bar_label(bars, fmt=_short, padding=2, fontsize=7)
    figure.legend(title="pass", fontsize=7, loc="outside lower left", ncols=4)
    first.set_title("mean time to first token, s")
    gaps = [(variant["figures"]["inter_token_latency_p99_s"] or 0.0) * 1000 for variant in measured]
    tokens = [variant["figures"]["total_tokens_per_s"] for variant in measured]
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
    """Plot the time to first token over the chunk size, one curve per cache size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    measured = [variant for variant in body["variants"] if variant["figures"]]
    sizes = list(dict.fromkeys(variant["cpu_gib"] for variant in measured))
    by_chunk = sorted(measured, key=lambda variant: int(variant["chunk_size"]))
    for number, gib in enumerate(sizes):
        row = [variant for variant in by_chunk if variant["cpu_gib"] == gib]
        for key, line, words in (("ttft_first_s", "--", "first pass"), ("ttft_later_s", "-", "later passes")):
            points = [(each["chunk_size"], each["figures"][key]) for each in row if each["figures"][key]]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    f"o{line}",
                    color=_COLOURS[number % len(_COLOURS)],
                    label=f"{gib:g} GiB, {words}",
                )
    if best := next((variant for variant in measured if variant["name"] == body["best"]), None):
        ttft = best["figures"]["ttft_later_s"] or best["figures"]["ttft_first_s"]
        axes.plot(best["chunk_size"], ttft, "*", markersize=16, color="#D55E00", label="best")
    axes.set_xscale("log", base=2)
    chunks = sorted({variant["chunk_size"] for variant in measured})
    axes.set_xticks(chunks, [str(chunk) for chunk in chunks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("LMCache chunk size, tokens")
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
    """Draw mean and percentiles as groups of bars, one colour per pass."""
    width = 0.8 / max(1, len(labels))
    for number, (label, spread) in enumerate(zip(labels, spreads, strict=True)):
        if spread is None:
            continue
        at = [place + (number - (len(labels) - 1) / 2) * width for place in range(len(_SPREAD))]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.bar(at, [spread[name] * factor for name in _SPREAD], width * 0.9, label=label, color=colour)
    axes.set_xticks(range(len(_SPREAD)), _SPREAD)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, title="pass")


def _tokens(axes: Axes, labels: Sequence[str], passes: Sequence[Mapping[str, Any]]) -> None:
    """Draw where the prompts' tokens came from. Engines request from LMCache only what they do not have."""
    lmcache = [pass_["counted"]["lmcache_hit_tokens"] or 0 for pass_ in passes]
    engine = [pass_["counted"]["prefix_hit_tokens"] or 0 for pass_ in passes]
    hits = [sum(tokens) for tokens in zip(lmcache, engine, strict=True)]
    computed = [max(0, pass_["prompt_tokens"] - hit) for pass_, hit in zip(passes, hits, strict=True)]
    bottom = [0] * len(passes)
    for values, name, colour in (
        (computed, "computed", _COMPUTED),
        (lmcache, "from LMCache", _LMCACHE),
        (engine, "from the engine's own cache", _ENGINE),
    ):
        axes.bar(labels, values, 0.6, bottom=bottom, label=name, color=colour)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.set_title("tokens of the prompts")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)


def _short(value: float) -> str:
    """A number with three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _legend(axes: Axes, title: str | None = None) -> None:
    """Add a legend above the bars."""
    axes.set_ylim(0, axes.dataLim.ymax * 1.4 or 1)
    axes.legend(title=title, fontsize=7, loc="upper left", ncols=2)
