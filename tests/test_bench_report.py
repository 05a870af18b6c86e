"""Tables and charts of a record of the benches."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benches import report

    return report


def rows(**us):
    """Rows as the harness writes them; the first is the baseline, the paired ratio a tenth less."""
    base = next(iter(us.values()))
    return [
        {"name": name, "min_us": each, "ratio_paired": 1.0 if each == base else 0.9 * base / each, "new": 1}
        for name, each in us.items()
    ]


def step(kernel):
    return {"kernel": kernel, "macs": 100, "nbytes": 600}


def synthetic():
    """A record with an entry of every kind, and one that the report does not know."""
    spmm = {
        "shape": [64, 32, 16],
        "density": 0.5,
        "best_dense": "numpy",
        "kernels": {"secateur auto": "spmm_csr_f32_1x64__avx512", "secateur block": "spmm_block_f32_8x32"},
        "rows": rows(**{"numpy": 30.0, "mkl": 40.0, "secateur auto": 12.0, "secateur block": 10.0}),
    }
    slower = {
        **spmm,
        "rows": rows(**{"numpy": 30.0, "mkl": 40.0, "secateur auto": 20.0, "secateur block": 25.0}),
    }
    spmv = {"shape": [64, 32], "density": 0.1, "memory": True, "best_dense": "numpy"}
    spmv["rows"] = rows(**{"numpy": 6.0, "secateur csr": 2.0, "secateur block 8x1": 1.0, "scipy csr": 8.0})
    spmv["rows"][1] |= {"bytes": 1300, "kernel": "spmv_csr_f32__avx512"}
    spmv["rows"][2] |= {"bytes": 900, "kernel": "spmv_block_f32__avx512"}
    plans = {
        "secateur 1": [step("spmm_dense_f32_8x48__avx512")],
        "secateur 0.1": [step("spmm_csr_f32_1x64__avx512"), {"kernel": "relayout", "macs": 0, "nbytes": 0}],
    }
    net = {"batch": 8, "plans": plans}
    net["rows"] = rows(
        **{
            "onnxruntime": 20.0,
            "secateur 1": 16.0,
            "secateur 0.1": 4.0,
            "deepsparse 1": 18.0,
            "deepsparse 0.1": 8.0,
        }
    )
    layer = {"channels": 4, "filters": 8, "pixels": 6, "size": 3, "groups": 1}
    backward = {"shape": [64, 32, 16], "density": 0.2, "best_dense": "numpy"}
    backward["rows"] = rows(**{"numpy": 9.0, "secateur": 3.0, "secateur dX": 1.0, "secateur + update": 4.5})
    common = {
        "command": "python -m benches.peers.spmm --shapes /somewhere/else/few.txt --work=~/x/y",
        "cpu": {"name": "A CPU", "family": "7"},
        "target": "avx512",
        "peak_gflops": 100.0,
        "versions": {"numpy": "2.0"},
        "something": "more",
    }
    results = {
        "spmm few, single weights, 1 threads": [spmm],
        "spmm few, single weights, 2 threads": [slower],
        "spmv vectors, 1 threads": [spmv],
        "dense 32-64, single weights, 1 threads": [{"sizes": [32, 64], **net}],
        "conv 3x3, 1 threads": [{"layer": layer, **net}],
        "backward few, 1 threads": [backward],
        "select, 1 threads": [{"size": 3}],
    }
    day = {name: {**common, "results": each} for name, each in results.items()}
    day["spmv vectors, 1 threads"]["read_bytes_per_second"] = 2e10
    del day["conv 3x3, 1 threads"]["peak_gflops"]
    return day


def made(report, tmp_path, day):
    record = tmp_path / "2030-01-02.json"
    record.write_text(json.dumps(day))
    assert report.main(["--record", str(record), "--out", str(tmp_path / "docs")]) == 0
    return (tmp_path / "docs" / "benchmarks.md").read_text(), tmp_path / "docs" / "img"


def test_tables_and_charts(report, tmp_path):
    page, images = made(report, tmp_path, synthetic())
    assert "A CPU (family 7)" in page and "2030-01-02" in page and "100 GF/s" in page
    # The block format is three times as fast as NumPy with one thread; with two it is csr, 1.5 times.
    assert "| shape | 50%, 1 thread | 50%, 2 threads |" in page
    assert "| 64x32x16 | 3.00 (2.70)<br>block 8x32 | 1.50 (1.35)<br>csr 1x64 |" in page
    assert "| 64x32x16, 50%, 1 thread | 1.00 | 0.75 | 2.50 | 3.00 |" in page
    # Blocks are another matrix than single weights: each has its own table.
    assert "| 64x32 | 3.00 (2.70)<br>csr |" in page and "| 64x32 | 6.00 (5.40)<br>block 8x1 |" in page
    # A network is held against the fastest dense one, here our own plan with every weight.
    assert "| batch 8 | 4.00 (4.00)<br>csr 1x64 |" in page
    assert "| batch 8, 90%, 1 thread | 0.80 | 1.00 | 0.89 | 4.00 | 2.00 |" in page
    assert "| 3x3, 4 to 8, 6 px, batch 8 | 4.00 (4.00)<br>csr 1x64 |" in page
    assert "| 64x32, batch 16 | 3.00 (2.70) |" in page
    assert "--shapes few.txt --work=y" in page and "somewhere" not in page and str(tmp_path) not in page
    charts = sorted(path.name for path in images.iterdir())
    assert len(charts) == 11 and all(f"(img/{name})" in page for name in charts)
    assert all(path.read_bytes().startswith(PNG) for path in images.iterdir())


def test_the_same_record_gives_the_same_files(report, tmp_path):
    day = {name: entry for name, entry in synthetic().items() if name.startswith("spmm")}
    first, images = made(report, tmp_path, day)
    pictures = {path.name: path.read_bytes() for path in images.iterdir()}
    (images / "bench-gone.png").write_bytes(PNG)
    second, _ = made(report, tmp_path, day)
    assert first == second
    assert pictures == {path.name: path.read_bytes() for path in images.iterdir()}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[1]", "not a record"),
        ("{}", "no entries of"),
        ('{"spmm few, 1 threads": {"results": [{"shape": [1, 2, 3]}]}}', "'spmm few, 1 threads'"),
        ('{"backward few, 1 threads": {"results": 3}}', "'backward few, 1 threads'"),
    ],
)
def test_a_bad_record_is_one_line(report, tmp_path, capsys, content, says):
    record = tmp_path / "record.json"
    if content is not None:
        record.write_text(content)
    assert report.main(["--record", str(record), "--out", str(tmp_path / "docs")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "docs").exists()


def test_without_a_record(report, tmp_path):
    with pytest.raises(ValueError, match="no record"):
        report.newest(tmp_path)
    for name in ("b/2030-01-01", "a/2030-01-02"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.json").write_text("{}")
    assert report.newest(tmp_path).parent.name == "a"
