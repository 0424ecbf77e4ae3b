"""Trained networks outside of PyTorch: ONNX files, and C for small devices."""

from nextstate.export.c_file import CFile, c
from nextstate.export.onnx_file import OnnxFile, onnx

__all__ = ["CFile", "OnnxFile", "c", "onnx"]
