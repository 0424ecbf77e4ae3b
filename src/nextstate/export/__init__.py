"""Trained networks outside of PyTorch: ONNX files."""

from nextstate.export.onnx_file import OnnxFile, onnx

__all__ = ["OnnxFile", "onnx"]
