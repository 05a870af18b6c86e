"""onnx's own tests of operators, through plans: each computes what it should, or raises an error.

``data/onnx_backend_passing.txt`` lists those that pass, ``data/onnx_backend_unsupported.txt`` those that do
not although their operators run here, with the error. What is in neither needs other operators, or is newer
than the lists.
"""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

import secateur as sc

DATA = Path(__file__).parent / "data"
PASSING = set((DATA / "onnx_backend_passing.txt").read_text().split())
UNSUPPORTED = dict(
    line.split(": ", 1) for line in (DATA / "onnx_backend_unsupported.txt").read_text().splitlines()
)
SCOPE = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Flatten", "GRU",
    "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LSTM",
    "LayerNormalization", "LeakyRelu", "LpPool", "MatMul", "MaxPool", "Mul", "RNN", "ReduceMean",
    "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
}  # fmt: skip
"""What plans promise to run; the ops that a test's node is spelled out in are not counted."""
ROUNDING = {"float16": 2.0**-9, "bfloat16": 2.0**-6}
"""Two units in the last place: what computes with more bits does not round as often."""

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 21),
        reason="some tests of older onnx are wrong",
    ),
]


@pytest.fixture(scope="module")
def cases():
    return {case.name: case for case in collect_testcases(None) if case.model is not None}


def run(case, path, constants):
    """Run a test; with `constants`, all inputs but the first are initializers.

    Returns the error that says that it cannot be run, or None.
    """
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    data = [[list(map(array_of, arrays)) for arrays in arrays_of_set] for arrays_of_set in case.data_sets]
    if constants:
        for info, array in list(zip(model.graph.input, data[0][0], strict=False))[1:]:
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
        del model.graph.input[1:]
    path.write_bytes(model.SerializeToString())
    try:
        plan = sc.compile(sc.load(path), batch=1)
        for inputs, outputs in data:
            names = [info.name for info in plan.model.inputs]
            found = plan(dict(zip(names, inputs, strict=False)))
            compare(found if isinstance(found, list) else [found], outputs, case)
    except (sc.UnsupportedOpError, sc.FormatError) as error:
        return error
    return None


def array_of(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def compare(found, wanted, case):
    for mine, other in zip(found, wanted, strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape), case.name
        rtol = max(case.rtol, ROUNDING.get(mine.dtype.name, 0))
        if mine.dtype.name in ROUNDING:
            mine, other = mine.astype(np.float32), other.astype(np.float32)
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=case.atol, err_msg=case.name)


def test_each_passes_or_names_the_operator(cases, tmp_path):
    for name, case in cases.items():
        error = run(case, tmp_path / "m.onnx", constants=False)
        kinds = {node.op_type for node in case.model.graph.node}
        if error is None:
            assert name not in UNSUPPORTED, f"{name} passes: list it"
            continue
        assert name not in PASSING, f"{name}: {error}"
        if name in UNSUPPORTED:
            assert UNSUPPORTED[name] in str(error)
        elif isinstance(error, sc.UnsupportedOpError):
            named = any(re.search(rf"\b{kind}\b", str(error)) for kind in kinds)
            assert named or "plans take and give tensors" in str(error), f"{name}: {error}"


def test_each_passes_with_constants(cases, tmp_path):
    chains = 0
    for name in sorted(PASSING & set(cases)):
        case = cases[name]
        if len(case.data_sets) == 1 and len(case.data_sets[0][0]) > 1:
            error = run(case, tmp_path / "m.onnx", constants=True)
            assert error is None, f"{name}: {error}"
            chains += 1
    assert chains > 300


def test_what_is_promised_passes(cases):
    promised = []
    for name, case in cases.items():
        whole = cases.get(re.sub("_expanded.*", "", name), case).model.graph.node
        modes = {attribute.s for node in whole for attribute in node.attribute if attribute.name == "mode"}
        if len(whole) == 1 and whole[0].op_type in SCOPE and b"cubic" not in modes:
            promised.append(name)
    passing = PASSING.intersection(promised)
    assert len(promised) > 250 and len(passing) >= 0.95 * len(promised), sorted({*promised} - passing)
