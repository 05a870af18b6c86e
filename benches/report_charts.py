"""The charts of `benches.report`: speed-up against sparsity, and rooflines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report_read import Family, Point

DPI = 100
INCHES = (9.0, 4.8)
MARKERS = "osD^vPX*<>"
#: The least density that has a colour of its own in the rooflines.
SPARSEST = 0.02


def speedup(title: str, points: Sequence[Point], path: Path) -> None:
    """Lines of shapes over the sparsity, both axes logarithmic so that the ideal 1/density is straight."""
    figure, axes = _figure(f"{title}: speed-up over the best dense")
    by_shape: dict[str, list[Point]] = {}
    for point in points:
        by_shape.setdefault(point.shape, []).append(point)
    for i, (shape, mine) in enumerate(by_shape.items()):
        mine = sorted(mine, key=lambda point: -point.density)
        x, y = [1 / point.density for point in mine], [point.ratio for point in mine]
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], color=f"C{i % 10}", label=shape)
    labels = {1 / point.density: point.sparsity for point in points}
    ends = [min(labels), max(labels)]
    axes.plot(ends, ends, "--", color="0.4", label="ideal, 1 / density")
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="sparsity", ylabel="times as fast")
    axes.set_xticks(sorted(labels), [labels[x] for x in sorted(labels)])
    axes.set_xticks([], minor=True)
    _plain_powers(axes, [1.0, *ends, *(point.ratio for point in points)])
    _save(figure, axes, path)


def roofline(family: Family, points: Sequence[Point], bandwidth: float | None, path: Path) -> None:
    """GF/s of nonzero multiply-adds over flop per byte, under the roofs of the cores and of the memory."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    threads = points[0].threads
    figure, axes = _figure(f"{family.kind}: roofline, {plural(threads)}")
    by = "group" if len({point.group for point in points}) > 1 else "shape"
    names = list(dict.fromkeys(getattr(point, by) for point in points))
    marker = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}
    colour = {
        point.sparsity: _colour(point.density) for point in sorted(points, key=lambda each: -each.density)
    }
    dot: dict[str, Any] = {"linestyle": "", "markersize": 7, "markeredgecolor": "0.3", "markeredgewidth": 0.5}
    for point in points:
        shown = {"marker": marker[getattr(point, by)], "color": colour[point.sparsity], **dot}
        axes.plot(point.intensity, point.gflops, **shown)
    x = [point.intensity for point in points]
    y = [point.gflops for point in points]
    peak, handles = family.peak.get(threads, 0.0) * threads, []
    if peak and bandwidth:
        x.append(peak / bandwidth * 1e9)  # the corner of the roof
    left, right = min(x) / 1.6, max(x) * 1.6
    roof: dict[str, Any] = {"color": "0.2", "linewidth": 1.2}
    if peak:
        handles += axes.plot([left, right], [peak, peak], "-", label=f"peak, {peak:.0f} GF/s", **roof)
        y.append(peak)
    if bandwidth:
        reach = [left, peak / bandwidth * 1e9 if peak else right]
        limit = [each * bandwidth / 1e9 for each in reach]
        handles += axes.plot(reach, limit, "-.", label=f"memory, {bandwidth / 1e9:.0f} GB/s", **roof)
    handles += [Line2D([], [], marker=marker[name], color="0.6", label=name, **dot) for name in names]
    handles += [
        Line2D([], [], marker="o", color=colour[each], label=f"{each} zeros", **dot) for each in colour
    ]
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(min(y) / 1.6, max(y) * 1.6))
    axes.set(xlabel="flop per byte moved", ylabel="GF/s of nonzero multiply-adds")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    _save(figure, axes, path, handles)


def plural(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{threads} thread" + ("s" if threads > 1 else "")


def _colour(density: float) -> Any:
    """From blue to red, the same for a density in every chart."""
    from matplotlib import colormaps

    # Without the ends of the colour map, which are nearly black.
    return colormaps["turbo"](0.08 + 0.86 * min(1.0, math.log(density) / math.log(SPARSEST)))


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.add_subplot(facecolor="white")
    axes.set_title(title, loc="left")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain_powers(axes: Any, values: Sequence[float]) -> None:
    """Ticks 1, 2, 4, … on the y axis instead of powers of ten."""
    ticks = [2.0**i for i in range(-6, 10) if min(values) / 1.5 <= 2.0**i <= max(values) * 1.5]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def _save(figure: Any, axes: Any, path: Path, handles: Sequence[Any] | None = None) -> None:
    # Beside the axes it cannot cover a point.
    given = {} if handles is None else {"handles": handles}
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9, **given)
    # matplotlib's version would make another file of the same picture.
    figure.savefig(path, dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
