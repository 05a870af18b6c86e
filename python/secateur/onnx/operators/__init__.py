"""ONNX operators on NumPy arrays: what runs of a graph outside its chains, and what is computed beforehand.

Each follows the operator's specification in the opset versions 7 to 23, with float32 arithmetic for floats.
"""
