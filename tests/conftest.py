"""Options and fixtures of all tests."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

import secateur as sc
from secateur import _core

# What the kernel says a CPU can do, and the target that must then be on offer.
FLAGS = {
    "avx2": {"avx2", "fma", "bmi2"},
    "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
}

# One run is like the other; what hypothesis finds elsewhere is kept as an example in the test.
settings.register_profile("ci", derandomize=bool(os.environ.get("CI")), deadline=None)
settings.load_profile("ci")


def expected_targets() -> list[str]:
    """The CPU targets that this machine should have, slowest first."""
    try:
        match = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    flags = set(match.group(1).split()) if match else set()
    return ["scalar", *(name for name, needed in FLAGS.items() if needed <= flags)]


def pytest_addoption(parser):
    parser.addoption(
        "--require-targets",
        action="store_true",
        help="fail if a CPU target that this machine should have is not offered",
    )


def pytest_report_header():
    found = _core.cpu_targets()
    lines = [f"secateur: CPU targets {', '.join(found)}; {sc.get_num_threads()} threads"]
    absent = [name for name in ("scalar", *FLAGS) if name not in found]
    if absent:
        lines.append(f"secateur: NOT TESTED here: {', '.join(absent)}")
    return lines


def pytest_sessionstart(session):
    missing = [name for name in expected_targets() if name not in _core.cpu_targets()]
    if missing and session.config.getoption("--require-targets"):
        raise pytest.UsageError(f"this CPU has {', '.join(missing)}, but the build does not offer it")


@pytest.fixture(params=_core.cpu_targets())
def target(request) -> str:
    """Every CPU target of this machine."""
    return request.param
