import os
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

# threads and CPU targets
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def cpu_target() -> str: ...
def cpu_targets() -> list[str]: ...
def cpu_signature(target: str) -> str: ...
def peak_flops() -> float: ...

# formats
@final
class PackedMatrix:
    @staticmethod
    def from_dense(
        weights: ArrayLike,
        format: str,
        columns: int | None,
        block: tuple[int, int],
        target: str | None,
        storage: str,
    ) -> PackedMatrix: ...
    @staticmethod
    def from_csr(
        shape: tuple[int, int],
        indptr: NDArray[np.int64],
        indices: NDArray[np.int64],
        values: ArrayLike,
        format: str,
        columns: int | None,
        block: tuple[int, int],
        target: str | None,
        storage: str,
    ) -> PackedMatrix: ...
    def matmul(
        self,
        x: ArrayLike,
        bias: ArrayLike | None = None,
        activation: str | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]: ...
    def sddmm(
        self, dy: ArrayLike, x: ArrayLike, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    def update(self, values: ArrayLike) -> None: ...
    def __matmul__(self, value: ArrayLike, /) -> NDArray[np.float32]: ...
    def __rmatmul__(self, value: ArrayLike, /) -> NDArray[np.float32]: ...
    __array_ufunc__: None
    def to_dense(self) -> NDArray[np.float32]: ...
    def to_scipy(self) -> Any: ...
    def __bool__(self) -> bool: ...
    @property
    def T(self) -> PackedMatrix: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def values(self) -> NDArray[np.float32]: ...
    @property
    def nnz(self) -> int: ...
    @property
    def density(self) -> float: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def storage(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def kernel(self) -> str: ...

@final
class PackedConv2D:
    def __new__(
        cls,
        weight: ArrayLike,
        stride: tuple[int, int],
        pads: tuple[int, int, int, int] | None,
        dilation: tuple[int, int],
        groups: int,
        format: str,
        target: str | None,
    ) -> PackedConv2D: ...
    def __call__(
        self,
        x: ArrayLike,
        bias: ArrayLike | None = None,
        activation: str | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]: ...
    def grad_input(
        self, dy: ArrayLike, input_size: tuple[int, int], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    def sddmm(
        self, dy: ArrayLike, x: ArrayLike, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    def update(self, values: ArrayLike) -> None: ...
    def to_dense(self) -> NDArray[np.float32]: ...
    def __bool__(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def values(self) -> NDArray[np.float32]: ...
    @property
    def nnz(self) -> int: ...
    @property
    def density(self) -> float: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def kernel(self) -> str: ...

# train (channels-last images; see secateur.nn)
_Floats: TypeAlias = NDArray[np.float32]
_Pair: TypeAlias = tuple[int, int]
_Pads: TypeAlias = tuple[int, int, int, int]

def matmul(
    a: _Floats,
    b: _Floats,
    bias: _Floats | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> _Floats: ...
def conv2d(
    x: _Floats,
    weight: _Floats,
    bias: _Floats | None,
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    pads: _Pads,
    relu: bool = False,
) -> _Floats: ...
def conv2d_backward(
    x: _Floats,
    weight: _Floats,
    dy: _Floats,
    relu_output: _Floats | None,
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    pads: _Pads,
    need_dx: bool = True,
) -> tuple[_Floats | None, _Floats, _Floats]: ...
def max_pool(
    x: _Floats, pool_size: _Pair, strides: _Pair, pads: _Pads
) -> tuple[_Floats, NDArray[np.uint16]]: ...
def max_pool_backward(
    dy: _Floats,
    place: NDArray[np.uint16],
    shape: tuple[int, int, int, int],
    pool_size: _Pair,
    strides: _Pair,
    pads: _Pads,
) -> _Floats: ...
def average_pool(x: _Floats, pool_size: _Pair, strides: _Pair, pads: _Pads) -> _Floats: ...
def average_pool_backward(
    dy: _Floats, shape: tuple[int, int, int, int], pool_size: _Pair, strides: _Pair, pads: _Pads
) -> _Floats: ...
def recurrent_forward(
    cell: str,
    x: NDArray[np.float32],
    weight: NDArray[np.float32] | PackedMatrix,
    bias: NDArray[np.float32] | None = None,
    skip: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
def recurrent_backward(
    cell: str,
    gates: NDArray[np.float32],
    states: NDArray[np.float32],
    memory: NDArray[np.float32],
    weight: NDArray[np.float32] | PackedMatrix,
    skip: NDArray[np.bool_] | None = None,
    dy: NDArray[np.float32] | None = None,
    last: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def adam_step(
    weight: _Floats,
    gradient: _Floats,
    m: _Floats,
    v: _Floats,
    mask: NDArray[np.bool_] | None,
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None: ...
def sgd_step(
    weight: _Floats,
    gradient: _Floats,
    velocity: _Floats,
    mask: NDArray[np.bool_] | None,
    *,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
) -> None: ...

# operators: x is (..., features); a is (stack, m, k), b (stack, k, n)
def softmax(x: ArrayLike, threads: int | None) -> NDArray[np.float32]: ...
def layer_norm(
    x: ArrayLike, scale: ArrayLike, shift: ArrayLike, epsilon: float, threads: int | None
) -> NDArray[np.float32]: ...
def matmul_stack(a: ArrayLike, b: ArrayLike, threads: int | None) -> NDArray[np.float32]: ...

# plans
def compile(
    input_shape: tuple[int, ...],
    nodes: str,
    tensors: dict[str, NDArray[Any]],
    batch: list[int],
    threads: int | None,
    target: str | None,
    choices: str | None,
    timed: bool,
    winograd: bool,
) -> CompiledPlan: ...

@final
class CompiledPlan:
    def run(self, x: ArrayLike, open: bool) -> NDArray[np.float32]: ...
    def tune(self) -> None: ...
    @property
    def choices(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def at_once(self, images: int) -> int: ...
    def threads_for(self, images: int) -> int: ...
    def activation_bytes(self, images: int) -> int: ...
    def report(self, images: int, dense: bool, seconds: float) -> list[dict[str, Any]]: ...

# files: arrays are float32, float64, int64, uint8 or bool; masks are bool.
def encode(
    tensors: dict[str, NDArray[Any]],
    masks: dict[str, NDArray[Any]],
    metadata: dict[str, str],
) -> bytes: ...
def decode(
    source: bytes | str | os.PathLike[str],
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], dict[str, str]]: ...

# selection
_Operand: TypeAlias = tuple[str | None, NDArray[Any], NDArray[Any] | None, str | None]

def topk_masks(
    tensors: list[_Operand],
    k: int,
    kind: str,
    lam: float,
    near: float | None = None,
    alive: list[NDArray[np.uint8] | None] | None = None,
    within: float = 0.0,
) -> tuple[list[NDArray[np.bool_]], float | None]: ...
def topk_bits(
    tensors: list[_Operand], k: int, kind: str, lam: float, near: float | None = None
) -> tuple[list[NDArray[np.uint8]], float | None]: ...
def topk_cut(
    tensors: list[_Operand], k: int, kind: str, lam: float, near: float | None = None
) -> tuple[float, int, int]: ...
def cut_mask(tensor: _Operand, kind: str, lam: float, score: float, end: int) -> NDArray[np.bool_]: ...
def scores_at(
    tensor: _Operand, kind: str, lam: float, at: NDArray[np.int64], run: int
) -> NDArray[np.float64]: ...
def tally(
    tensor: _Operand, kind: str, lam: float, long: bool, low: int, high: int, shift: int, most: int
) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]: ...
def key_of(score: float, long: bool) -> int: ...
def score_of(key: int, long: bool) -> float: ...
def kth_largest(tensors: list[_Operand], k: int) -> float: ...
def nm_masks(tensors: list[_Operand], n: int, m: int, axes: list[int]) -> list[NDArray[np.bool_]]: ...
def block_masks(
    tensors: list[_Operand], block: tuple[int, int], sparsity: float
) -> list[NDArray[np.bool_]]: ...
def absolute_sum(arrays: list[NDArray[np.float32]]) -> float: ...
def kept(sparsity: float, n: int) -> int: ...
def bits_into(out: NDArray[Any], bits: NDArray[np.uint8]) -> None: ...
def mask_into(out: NDArray[Any], mask: NDArray[np.uint8], weights: NDArray[Any] | None = None) -> bool: ...
