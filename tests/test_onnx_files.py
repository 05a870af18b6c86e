"""ONNX files in and out: what is read and written, and what is refused."""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import secateur as sc
from secateur.onnx import files
from secateur.onnx.files import read_model, write_model

WEIGHT = np.arange(24, dtype=np.float32).reshape(4, 6)


def perceptron(weight: TensorProto | None = None, opset: int = 17) -> onnx.ModelProto:
    """x (N, 4) times a weight (4, 6) that is an initializer."""
    weight = weight or numpy_helper.from_array(WEIGHT, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], "product"), helper.make_node("Relu", ["h"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def external(location: str, **entries: int) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.onnx"


def put(path, proto: onnx.ModelProto):
    path.write_bytes(proto.SerializeToString())
    return path


def refused(path, proto, match, error=sc.FormatError):
    with pytest.raises(error, match=match) as caught:
        read_model(put(path, proto))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_load_and_save(path, tmp_path):
    model = sc.load(put(path, perceptron()))
    assert isinstance(model, sc.OnnxModel) and model.path == path
    assert model.inputs == [("x", "FLOAT", ("N", 4))] and model.outputs == [("y", "FLOAT", ("N", 6))]
    assert repr(model) == "OnnxModel(x: FLOAT[N, 4] -> y: FLOAT[N, 6]; 2 nodes)"
    sc.save(model, tmp_path / "a.onnx")
    sc.save(sc.load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    np.testing.assert_array_equal(run(tmp_path / "a.onnx", np.eye(4)), WEIGHT)


def run(path, x):
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: np.asarray(x, np.float32)})[0]


def test_other_objects_are_no_onnx_files(path, tmp_path):
    with pytest.raises(TypeError, match="expected a OnnxModel"):
        sc.save(sc.nn.Sequential([sc.nn.Dense(2)]).build((3,)), path)
    with pytest.raises(TypeError, match="expected one of"):
        sc.save(sc.load(put(path, perceptron())), tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_shapes_are_inferred_and_constants_lifted(path):
    proto = perceptron()
    weight = proto.graph.initializer.pop()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    model = read_model(put(path, proto))
    assert list(model.graph.initializers) == ["w"]
    assert [node.op_type for node in model.graph] == ["MatMul", "Relu"]
    assert str(model.graph.node(0).outputs[0].shape) == "[N,6]"


def test_a_copy_is_another_model(path):
    model = sc.load(put(path, perceptron()))
    other = model.copy()
    other.ir.graph.initializers["w"].const_value = ir.tensor(np.zeros((4, 6), np.float32), name="w")
    assert model.ir.graph.initializers["w"].const_value.numpy().any()


@pytest.mark.parametrize("indices", ["flat", "pairs"])
def test_sparse_initializers_become_dense(path, indices):
    dense = np.where(WEIGHT % 5 == 0, WEIGHT, 0)
    proto = perceptron()
    proto.graph.initializer.pop()
    places = np.flatnonzero(dense) if indices == "flat" else np.argwhere(dense)
    sparse = proto.graph.sparse_initializer.add(dims=dense.shape)
    sparse.values.CopyFrom(numpy_helper.from_array(dense[dense != 0], "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64)))
    model = read_model(put(path, proto))
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), dense)
    sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64) + 100))
    refused(path, proto, "outside its shape")
    constant = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    proto.graph.node.insert(0, constant)
    del proto.graph.sparse_initializer[:]
    refused(path, proto, "outside its shape")
    sparse = proto.graph.node[0].attribute[0].sparse_tensor
    sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64)))
    model = read_model(put(path, proto))
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), dense)
    sparse.dims[0] = 1 << 40
    refused(path, proto, "too large for its file")


def test_old_opsets_are_converted(path):
    assert read_model(put(path, perceptron(opset=6))).opset_imports[""] == files.OLDEST_OPSET
    refused(path, perceptron(opset=99), "opset 99", sc.UnsupportedOpError)
    proto = perceptron(opset=6)
    proto.graph.node[1].op_type = "PRelu"
    proto.graph.node[1].input.append("slope")
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHT[0], "slope"))
    refused(path, proto, r"y \(PRelu\): of opset 6 with slopes", sc.UnsupportedOpError)


def test_weights_listed_as_inputs_are_constants(path):
    proto = perceptron()
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 6]))
    model = sc.load(put(path, proto))
    assert [info.name for info in model.inputs] == ["x"]
    assert [value.name for value in model.ir.graph.inputs] == ["x"]
    proto.ir_version = 8  # a default that callers may replace
    model = sc.load(put(path, proto))
    assert [value.name for value in model.ir.graph.inputs] == ["x", "w"]


# External data


def test_external_data_are_mapped(path, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"\1" * 7 + WEIGHT.tobytes())
    model = sc.load(put(path, perceptron(external("sub/w.bin", offset=7, length=96))))
    np.testing.assert_array_equal(model.ir.graph.initializers["w"].const_value.numpy(), WEIGHT)
    sc.save(model, tmp_path / "out.onnx")
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", np.eye(4)), WEIGHT)


def test_large_weights_go_to_a_file_of_their_own(path, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_INLINE", 50)
    monkeypatch.setattr(files, "LARGE", 90)
    model = sc.load(put(path, perceptron()))
    out = tmp_path / "out.onnx"
    sc.save(model, out)
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.read_bytes() == WEIGHT.tobytes()
    np.testing.assert_array_equal(run(out, np.eye(4)), WEIGHT)
    again = sc.load(out)  # whose weights are mapped from the file that is about to be replaced
    again.ir.graph.initializers["w"].const_value = ir.tensor(WEIGHT + 1, name="w")
    sc.save(again, out)
    (other,) = tmp_path.glob("out.onnx.*.data")
    assert other != data and sorted(tmp_path.iterdir()) == sorted([path, out, other])
    np.testing.assert_array_equal(run(out, np.eye(4)), WEIGHT + 1)
    sc.save(sc.load(out), out)
    assert sorted(tmp_path.iterdir()) == sorted([path, out, other])


def place_link(tmp_path):
    (tmp_path / "real.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "w.bin").symlink_to(tmp_path / "real.bin")
    return "w.bin"


def place_linked_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "sub").symlink_to(tmp_path / "real")
    return "sub/w.bin"


def place_hard_link(tmp_path):
    (tmp_path / "real.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "w.bin").hardlink_to(tmp_path / "real.bin")
    return "w.bin"


def place_fifo(tmp_path):
    os.mkfifo(tmp_path / "w.bin")
    return "w.bin"


def place_folder(tmp_path):
    (tmp_path / "w.bin").mkdir()
    return "w.bin"


def place_outside(tmp_path):
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    return f"../{tmp_path.name}/w.bin"


def place_absolute(tmp_path):
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    return str(tmp_path / "w.bin")


@pytest.mark.parametrize(
    "place, match",
    [
        (place_absolute, "absolute path"),
        (place_outside, "no path within the model's folder"),
        (place_link, "symbolic link"),
        (place_linked_folder, "symbolic link"),
        (place_hard_link, "several hard links"),
        (place_fifo, "no regular file"),
        (place_folder, "no regular file"),
        (lambda tmp_path: "gone.bin", "No such file"),
        (lambda tmp_path: "", "no path"),
        (lambda tmp_path: "C:\\w.bin", "absolute path"),
    ],
)
def test_external_data_that_are_refused(path, tmp_path, place, match):
    proto = perceptron(external(place(tmp_path)))
    refused(path, proto, f"'w'.*{match}")
    # The same hidden in an attribute.
    weight = proto.graph.initializer.pop()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    refused(path, proto, f"'w'.*{match}")


@pytest.mark.parametrize(
    "entries, match",
    [
        ({"offset": 4}, "ends at byte 100 of 'w.bin', which has 96"),
        ({"offset": -4}, "ends at byte 92"),
        ({"offset": 1 << 70}, "ends at byte"),
        ({"length": 95}, "needs 96 bytes, has 95"),
        ({"offset": "x"}, "no number"),
    ],
)
def test_external_data_of_other_lengths(path, tmp_path, entries, match):
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    refused(path, perceptron(external("w.bin", **entries)), match)


# Damaged files


def broken(change):
    proto = perceptron()
    change(proto)
    return proto


def set_type(proto):
    proto.graph.initializer[0].data_type = 99


def set_dims(proto):
    proto.graph.initializer[0].dims[0] = 5


def set_negative(proto):
    proto.graph.initializer[0].dims[0] = -4


def drop_weight(proto):
    proto.graph.initializer.pop()


def disagree(proto):
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT.T.copy(), "w"))


def reverse_nodes(proto):
    nodes = list(proto.graph.node)[::-1]
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)


def unknown_op(proto):
    proto.graph.node[0].op_type = "MatMulish"


@pytest.mark.parametrize(
    "change, match",
    [
        (set_type, "unknown type 99"),
        (set_dims, "needs 120 bytes and has 96"),
        (set_negative, "negative dimension"),
        (drop_weight, r"'product' \(MatMul\) reads 'w'"),
        (disagree, "product"),
        (reverse_nodes, "reads 'h'"),
        (unknown_op, "MatMulish"),
        (lambda proto: proto.ClearField("graph"), "no ONNX file"),
        (lambda proto: proto.ClearField("opset_import"), "no ONNX file"),
        (lambda proto: setattr(proto, "ir_version", 99), "version 99"),
    ],
)
def test_damaged_models(path, change, match):
    refused(path, broken(change), match)


def test_what_is_no_file(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        sc.load(path)
    os.mkfifo(path)
    with pytest.raises(sc.FormatError, match="not a regular file"):
        sc.load(path)


def test_every_truncation_and_many_mutations(path):
    whole = perceptron().SerializeToString()
    rng = np.random.default_rng(0)
    damaged = [whole[:end] for end in range(len(whole))]
    for _ in range(400):
        mutated = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        damaged.append(bytes(mutated))
    for data in damaged:
        path.write_bytes(data)
        try:
            read_model(path)
        except (sc.FormatError, sc.UnsupportedOpError) as error:
            assert "\n" not in str(error)


def test_nothing_is_written_that_does_not_load(path, tmp_path):
    model = sc.load(put(path, perceptron()))
    model.ir.graph.initializers["w"].const_value = ir.tensor(np.zeros((5, 6), np.float32), name="w")
    model.ir.graph.initializers["w"].shape = ir.Shape((5, 6))
    with pytest.raises(sc.FormatError, match="not written"):
        write_model(model.ir, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == [path]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_nothing_is_imported_before_it_is_needed():
    code = (
        "import sys, secateur.cli; print([m for m in ('onnx', 'onnx_ir', 'onnxruntime') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


@pytest.mark.parametrize(
    "call", ["sc.load('m.onnx')", "sc.prune('m.onnx', 0.5)", "sc.export_onnx", "sc.OnnxModel"]
)
def test_without_the_extra(call):
    start = "import sys; sys.modules['onnx'] = None\nimport secateur as sc\n"
    assert "secateur[onnx]" in python(start + f"try: {call}\nexcept sc.MissingExtraError as e: print(e)")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_what_is_read_and_written_computes_the_same(path):
    """All models of onnx's own tests of operators that ONNX Runtime runs."""
    from onnx.backend.test.case.node import collect_testcases

    compared = 0
    for case in collect_testcases(None):
        if case.model is None or case.name == "test_mvn":  # of which onnx's own inference fails
            continue
        feeds = case.data_sets[0][0]
        try:
            expected = results(put(path, case.model), feeds)
        except Exception:  # ONNX Runtime does not have it
            continue
        sc.save(sc.load(path), path)
        for found, wanted in zip(results(path, feeds), expected, strict=True):
            if isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=case.name)
        compared += 1
    assert compared > 1000


def results(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return session.run(
        None, {info.name: value for info, value in zip(session.get_inputs(), feeds, strict=False)}
    )
