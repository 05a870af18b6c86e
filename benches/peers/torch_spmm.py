"""torch's products of the weights with X, where torch is installed: dense, and in its CSR format."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray


def candidates(w: NDArray[Any], x: NDArray[Any], out: NDArray[Any]) -> dict[str, Callable[[], object]]:
    """Calls that write W @ X to `out`, which shares its memory with torch; none without torch."""
    try:
        import torch
    except ImportError:
        return {}
    weights, operand, result = (torch.from_numpy(array) for array in (w, x, out))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its CSR tensors are called a beta
        csr = weights.to_sparse_csr()
    return {
        "torch": lambda: torch.mm(weights, operand, out=result),
        "torch csr": lambda: torch.addmm(result, csr, operand, beta=0, out=result),
    }
