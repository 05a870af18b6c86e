"""Tables and charts from a record of the benches: docs/benchmarks.md and docs/img/bench-*.png.

python -m benches.report
python -m benches.report --record benches/record/<cpu>/<date>.json
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .report_charts import plural, roofline, speedup
from .report_read import KINDS, Family, Point, families

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "spmm": "Sparse times dense",
    "spmv": "Sparse times one vector",
    "dense": "Chains of Dense layers",
    "conv": "Single convolutions",
    "backward": "Backward through a pruned Dense layer",
    "conv_backward": "Backward through a pruned convolution",
}
INTRO = """\
Every number comes from one record of the scripts in [benches](../benches/README.md), which says how the
timing works: all candidates of a row ran in one process, in interleaved rounds, with the same number of
threads, and their results were checked first. `make bench` makes a record on your machine, and
`make charts` this page from it.

A cell says how many times as fast our best format was as **the best dense candidate of the same run**:
minimum against minimum, in brackets the median of the ratios within rounds, then the kernel that won. For
networks the bracket is the quotient of two such medians, and our own plan with every weight is among the
dense candidates. Columns are the share of zeros. Each table is followed by a folded one with all candidates,
minimum against minimum, and a chart.

In the rooflines only multiply-adds of nonzero weights count. Bytes moved are those of the packed weights (as
the record gives them, else 4 a dense element, 4 and a share of an index of 2 a weight in blocks, 6 any other
nonzero weight) and 4 for each number of the operands and results, once. Points above the memory's roof had
their data in the caches."""


def newest(records: Path) -> Path:
    """The record with the latest date, of those that charts are made of if there are any."""
    found = sorted(records.glob("*/*.json"), key=lambda path: (path.stem, path.parent.name))
    if not found:
        raise ValueError("there is no record under benches/record; `make bench` writes one")
    charted = (path for path in reversed(found) if families(read(path))[0])
    return next(charted, found[-1])


def read(path: Path) -> dict[str, Any]:
    """The entries of a record."""
    try:
        day = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise ValueError(f"{path}: {reason}") from error
    if not isinstance(day, dict) or not all(isinstance(entry, dict) for entry in day.values()):
        raise ValueError(f"{path}: not a record of the benches")
    return day


def machine(day: Mapping[str, Any], date: str) -> list[str]:
    """Lines about the processor and the libraries of the entries that are shown."""
    entries = [entry for name, entry in sorted(day.items()) if name.partition(" ")[0] in KINDS]

    def values(key: str) -> str:
        return " / ".join(dict.fromkeys(str(entry[key]) for entry in entries if entry.get(key)))

    names: list[str] = []
    versions: dict[str, dict[str, None]] = {}
    for entry in entries:
        cpu = entry.get("cpu") or {}
        numbers = ", ".join(f"{key} {cpu[key]}" for key in ("family", "model", "stepping") if key in cpu)
        names.append(cpu.get("name", "unknown") + (f" ({numbers})" if numbers else ""))
        for library, version in (entry.get("versions") or {}).items():
            versions.setdefault(library, {})[version] = None
    lines = [f"- Processor: {' / '.join(dict.fromkeys(names))}", f"- Date: {date}"]
    if values("target"):
        lines.append(f"- Target of the kernels: {values('target')}")
    # The peak is measured anew by every script.
    if peaks := [entry["peak_gflops"] for entry in entries if entry.get("peak_gflops")]:
        low, high = f"{min(peaks):.0f}", f"{max(peaks):.0f}"
        lines.append(f"- Peak of a core: {low if low == high else f'{low} to {high}'} GF/s")
    found = (f"{library} {' / '.join(versions[library])}" for library in sorted(versions))
    return [*lines, f"- Versions: {', '.join(found)}"]


def table(points: Sequence[Point]) -> list[str]:
    """Shapes by sparsity and threads; the cells are speed-ups over the best dense."""
    pruned = [point for point in points if point.density < 1]
    threads = sorted({point.threads for point in pruned})
    columns: dict[tuple[str, int], None] = {}
    for point in sorted(pruned, key=lambda point: -point.density):
        columns |= {(point.sparsity, each): None for each in threads}
    cells = {(point.shape, point.sparsity, point.threads): _cell(point) for point in pruned}
    rows = [
        [shape, *(cells.get((shape, *column), "") for column in columns)]
        for shape in dict.fromkeys(point.shape for point in pruned)
    ]
    many = len(threads) > 1
    heads = [sparsity + (f", {plural(each)}" if many else "") for sparsity, each in columns]
    return _markdown(["shape" if many else f"shape, {plural(threads[0])}", *heads], rows)


def _cell(point: Point) -> str:
    return f"{point.ratio:.2f} ({point.paired:.2f})" + (f"<br>{point.winner}" if point.winner else "")


def candidates(points: Sequence[Point]) -> list[str]:
    """Every candidate's ratio to the best dense one, minimum against minimum, folded."""
    points = [point for point in points if point.density < 1]
    names = list(dict.fromkeys(name for point in points for name in point.ratios))
    rows = [
        [
            f"{point.shape}, {point.sparsity}, {plural(point.threads)}",
            *(f"{point.ratios[name]:.2f}" if name in point.ratios else "" for name in names),
        ]
        for point in points
    ]
    summary = "<details><summary>All candidates</summary>"
    return [summary, "", *_markdown(["shape, zeros, threads", *names], rows), "", "</details>"]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _without_folders(command: str) -> str:
    """Paths to outside the repository, cut to the name of the file."""
    return re.sub(r"(^|[\s=])[~.]{0,2}/(?:\S*/)?", r"\1", command)


def section(family: Family, bandwidth: Mapping[int, float], images: Path) -> list[str]:
    """Tables of one kind, and its charts, which are drawn here."""
    lines = [f"## {TITLES[family.kind]}", ""]
    commands = dict.fromkeys(_without_folders(command) for command in family.commands)
    if commands:
        lines += ["```", *commands, "```", ""]
    for group, points in family.groups().items():
        if all(point.density == 1 for point in points):
            continue
        few = min(point.threads for point in points)
        title = f"{family.kind} {group}"
        name = "bench-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".png"
        shown = [point for point in points if point.threads == few and point.density < 1]
        speedup(f"{title}, {plural(few)}", shown, images / name)
        lines += [f"### {group}", "", *table(points), "", *candidates(points), ""]
        lines += [f"![{title}, speed-up against sparsity](img/{name})", ""]
    few = min(point.threads for point in family.points)
    shown = [point for point in family.points if point.threads == few]
    name = f"bench-roofline-{family.kind}.png"
    roofline(family, shown, bandwidth.get(few), images / name)
    return [*lines, f"![{family.kind}, roofline](img/{name})", ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 after one line where the record is missing or bad."""
    parser = argparse.ArgumentParser(prog="benches.report", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", type=Path, help="default: the newest under benches/record")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder to write to; default docs")
    options = parser.parse_args(arguments)
    try:
        import matplotlib.style

        path = options.record or newest(ROOT / "benches" / "record")
        day = read(path)
        found, bandwidth = families(day)
        if not found:
            raise ValueError(f"{path}: no entries of {', '.join(KINDS)}")
    except ImportError:
        print("charts need matplotlib: pip install 'secateur[demo]'", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    images = options.out / "img"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("bench-*.png"):
        old.unlink()
    lines = ["# Benchmarks", "", *machine(day, path.stem), "", INTRO, ""]
    # The user's own settings of matplotlib would change the pictures.
    with matplotlib.style.context("default"):
        for family in found:
            lines += section(family, bandwidth, images)
    page = options.out / "benchmarks.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    print(f"wrote {page} and {len(list(images.glob('bench-*.png')))} charts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
