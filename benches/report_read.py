"""Out of the entries of a record what `benches.report` shows: a `Point` for each shape and density."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
KINDS = ("spmm", "spmv", "dense", "conv", "backward", "conv_backward")
#: What a framework without sparse kernels runs; "secateur 1" and "deepsparse 1" are plans with every weight.
DENSE = ("numpy", "numpy column-major", "mkl", "mkl sgemv", "mkl sgemm", "gemm crate", "torch")
DENSE_NETS = ("onnxruntime", "onnxruntime bound", "openvino", "deepsparse 1", "secateur 1")
_NAME = re.compile(rf"({'|'.join(KINDS)}) (.+), (\d+) threads")
_BLOCK = re.compile(r"secateur block \d+x1")
_PATTERN = re.compile(r"secateur nm \d+:\d+")
_HALF = re.compile(r"secateur .* b?f16")


@dataclass(frozen=True)
class Point:
    """Our best format beside the best dense candidate of the same run."""

    group: str
    shape: str
    density: float
    threads: int
    winner: str
    best_dense: str
    ratio: float
    paired: float
    gflops: float
    intensity: float
    #: By candidate how many times as fast as the best dense one.
    ratios: dict[str, float]

    @property
    def sparsity(self) -> str:
        """Share of zeros, to print."""
        return f"{round(100 * (1 - self.density), 2):g}%"


@dataclass
class Family:
    """The entries of one kind."""

    kind: str
    points: list[Point] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    #: GF/s of a core, by threads of the entry.
    peak: dict[int, float] = field(default_factory=dict)

    def groups(self) -> dict[str, list[Point]]:
        """Points by what one table shows, in the record's order."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.group, []).append(point)
        return found


def families(day: Mapping[str, Any]) -> tuple[list[Family], dict[int, float]]:
    """The kinds that the record has, and the read bandwidth in bytes a second by threads.

    Raises
    ------
    ValueError
        If an entry of those kinds lacks what its script writes.
    """
    found = {kind: Family(kind) for kind in KINDS}
    bandwidth: dict[int, float] = {}
    for name, entry in sorted(day.items()):
        if not (match := _NAME.fullmatch(name)):
            continue
        kind, title, threads = match[1], match[2], int(match[3])
        family = found[kind]
        try:
            for result in entry["results"]:
                family.points += _READERS[kind](title, threads, result)
            if peak := entry.get("peak_gflops"):
                family.peak[threads] = max(float(peak), family.peak.get(threads, 0))
            if speed := entry.get("read_bytes_per_second"):
                bandwidth[threads] = max(float(speed), bandwidth.get(threads, 0))
            if command := entry.get("command"):
                family.commands.append(str(command))
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"entry {name!r} is not what its script writes: {error!r}") from error
    return [family for family in found.values() if family.points], bandwidth


def short(kernel: str) -> str:
    """A kernel's name without what all have in common: `csr 1x64` for `spmm_csr_f32_1x64__avx512`."""
    name = re.sub(r"^spm[mv]_|__\w+$", "", kernel).replace("_f32", "")
    return name.replace("_", " ")


def _point(
    where: tuple[str, str, float, int],
    rows: Rows,
    dense: Iterable[str],
    ours: Iterable[str],
    kernel: Callable[[str], str],
    flops: float,
    moved: Callable[[str], float],
) -> Point:
    group, shape, density, threads = where

    def fastest(names: Iterable[str]) -> str:
        return min((name for name in names if name in rows), key=lambda name: rows[name]["min_us"])

    best, winner = fastest(dense), fastest(ours)
    # Networks are recorded against ONNX Runtime: the paired ratio to another candidate is the quotient.
    base = rows[best]
    own = f" {density:g}"
    return Point(
        group=group,
        shape=shape,
        density=density,
        threads=threads,
        winner=kernel(winner),
        best_dense=best,
        ratio=base["min_us"] / rows[winner]["min_us"],
        paired=rows[winner]["ratio_paired"] / base["ratio_paired"],
        gflops=flops / rows[winner]["min_us"] / 1e3,
        intensity=flops / moved(winner),
        ratios={
            re.sub(" 1$", " dense", name.removesuffix(own)): base["min_us"] / row["min_us"]
            for name, row in rows.items()
        },
    )


def _by_name(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in result["rows"]}


def _spmm(title: str, threads: int, result: Mapping[str, Any]) -> Iterator[Point]:
    rows, (m, k, n) = _by_name(result), result["shape"]
    density, kernels = result["density"], result["kernels"]
    nonzero = int(result.get("nnz", round(density * m * k)))

    def moved(name: str) -> float:
        return weight_bytes(kernels[name], title, nonzero, m * k) + float(4 * n * (k + m))

    ours = [name for name in rows if name.startswith("secateur")]
    where = (title, f"{m}x{k}x{n}", density, threads)
    yield _point(where, rows, DENSE, ours, lambda name: short(kernels[name]), 2.0 * nonzero * n, moved)


def weight_bytes(kernel: str, title: str, nonzero: int, elements: int) -> float:
    """Bytes of packed weights that a record does not give: values, and u16 positions."""
    if "dense" in kernel:
        return 4.0 * elements
    if "block" not in kernel:
        return 6.0 * nonzero
    found = re.search(r"_(\d+)x\d+(?:__|$)", kernel) or re.search(r"(\d+)x1 blocks", title)
    return (4 + 2 / (int(found[1]) if found else 8)) * nonzero


def _spmv(title: str, threads: int, result: Mapping[str, Any]) -> Iterator[Point]:
    rows, (m, k), density = _by_name(result), result["shape"], result["density"]
    place = "from memory" if result["memory"] else "in cache"
    # Masks of blocks and of N:M are other matrices of the same density: they are not compared with single
    # weights. Nor are weights of 16 bits, which are rounded.
    blocks = [name for name in rows if _BLOCK.fullmatch(name)]
    patterns = [name for name in rows if _PATTERN.fullmatch(name)]
    halves = [name for name in rows if _HALF.fullmatch(name)]
    structured = blocks + patterns + halves
    for label, ours in (
        ("single weights", [name for name in rows if name.startswith("secateur") and name not in structured]),
        ("blocks", blocks),
        ("N:M", patterns),
        ("16 bits", halves),
    ):
        if not ours:
            continue
        kept = {
            name: row
            for name, row in rows.items()
            if name in ours or name in DENSE or (label == "single weights" and name not in structured)
        }

        def kernel(name: str) -> str:
            return name.removeprefix("secateur ") if name in structured else short(rows[name]["kernel"])

        where = (f"{title}, {place}, {label}", f"{m}x{k}", density, threads)
        flops = 2.0 * round(density * m * k)
        yield _point(
            where, kept, DENSE, ours, kernel, flops, lambda name: rows[name]["bytes"] + 4.0 * (m + k)
        )


def _backward(title: str, threads: int, result: Mapping[str, Any]) -> Iterator[Point]:
    # The two halves of ours have no dense half of their own in the run.
    halves = ("secateur dX", "secateur dW")
    rows = {name: row for name, row in _by_name(result).items() if name not in halves}
    (m, k, n), density = result["shape"], result["density"]
    nonzero = round(density * m * k)
    # dX and dW: the weights and their gradient, dY, X and dX.
    moved = (6.0 + 4.0) * nonzero + 4.0 * (m * n + 2 * k * n)
    where = (title, f"{m}x{k}, batch {n}", density, threads)
    yield _point(where, rows, DENSE, ["secateur"], lambda _: "", 4.0 * nonzero * n, lambda _: moved)


def _conv_backward(title: str, threads: int, result: Mapping[str, Any]) -> Iterator[Point]:
    parts = ("secateur dX", "secateur dW", "secateur + update")
    rows = {name: row for name, row in _by_name(result).items() if name not in parts}
    batch, density = result["batch"], result["density"]
    channels, filters, pixels, size = (
        result["layer"][key] for key in ("channels", "filters", "pixels", "size")
    )
    nonzero = round(density * channels * filters * size**2)
    # dX and dW: the weights and their gradient, dY, X and dX.
    moved = (6.0 + 4.0) * nonzero + 4.0 * batch * (2 * channels + filters) * pixels**2
    flops = 4.0 * batch * nonzero * pixels**2
    shape = f"{size}x{size}, {channels} to {filters}, {pixels} px"
    where = (title, shape, density, threads)
    dense = ("secateur dense", "torch")
    yield _point(where, rows, dense, ["secateur"], lambda _: "", flops, lambda _: moved)


def _net(
    group: str, shape: str, threads: int, result: Mapping[str, Any], flops: float, operands: float
) -> Iterator[Point]:
    """Points of a network's plans, one a density; `flops` are those of the dense network."""
    rows, plans = _by_name(result), result["plans"]
    peers = [name for name in rows if not re.match(r"(secateur|deepsparse) ", name)]

    def kernel(name: str) -> str:
        return " + ".join(dict.fromkeys(short(step["kernel"]) for step in plans[name] if step["macs"]))

    def moved(name: str) -> float:
        return float(sum(step["nbytes"] for step in plans[name])) + operands

    of = {name: float(name.removeprefix("secateur ")) for name in plans}
    for name, density in sorted(of.items(), key=lambda item: -item[1]):
        shown = (*peers, "secateur 1", "deepsparse 1", name, f"deepsparse {density:g}")
        kept = {each: rows[each] for each in dict.fromkeys(shown) if each in rows}
        where = (group, shape, density, threads)
        yield _point(where, kept, DENSE_NETS, [name], kernel, flops * density, moved)


def _dense(title: str, threads: int, result: Mapping[str, Any]) -> Iterator[Point]:
    sizes, batch = result["sizes"], result["batch"]
    pairs = list(pairwise(sizes))
    flops = 2.0 * batch * sum(k * m for k, m in pairs)
    operands = 4.0 * batch * sum(k + m for k, m in pairs)
    yield from _net(title, f"batch {batch}", threads, result, flops, operands)


def _conv(title: str, threads: int, result: Mapping[str, Any]) -> Iterator[Point]:
    layer, batch = result["layer"], result["batch"]
    channels, filters, pixels, size = (layer[key] for key in ("channels", "filters", "pixels", "size"))
    groups, stride = layer.get("groups", 1), layer.get("stride", 1)
    outputs = (-(-pixels // stride)) ** 2
    flops = 2.0 * batch * channels // groups * filters * size**2 * outputs
    operands = 4.0 * batch * (channels * pixels**2 + filters * outputs)
    strided = f", stride {stride}" if stride > 1 else ""
    shape = f"{size}x{size}, {channels} to {filters}, {pixels} px{strided}, batch {batch}"
    yield from _net(title, shape, threads, result, flops, operands)


_READERS: dict[str, Callable[[str, int, Mapping[str, Any]], Iterator[Point]]] = {
    "spmm": _spmm,
    "spmv": _spmv,
    "dense": _dense,
    "conv": _conv,
    "backward": _backward,
    "conv_backward": _conv_backward,
}
