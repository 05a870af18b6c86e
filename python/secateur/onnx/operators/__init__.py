"""ONNX operators on NumPy arrays: what runs of a graph outside its chains, and what is computed beforehand.

Each follows its specification in the opset versions 7 to 28; where that is silent, or ONNX Runtime does
something else, as a comment tells. Floats of 16 bits are computed with as float32.
"""
