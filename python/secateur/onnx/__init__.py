"""Models in ONNX files: read, checked, pruned, exported, written.

Nothing here is imported before it is needed: onnx and onnx-ir are an extra.
"""

import logging

from ..errors import MissingExtraError

try:
    import onnx  # noqa: F401
    import onnx_ir  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        'ONNX models need onnx and onnx-ir; install them with pip install "secateur[onnx]"'
    ) from error

# It reports what is wrong with a file; so do our errors, in one line.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
