"""ONNX classifiers for kcframe. onnxruntime is imported only where a run uses it."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_teacher_onnx.options import OnnxOptions


@hookimpl
def kcframe_teacher():
    return [
        Lazy(
            "onnx",
            "kcframe_teacher_onnx.source:Onnx",
            OnnxOptions,
            "one ONNX classifier with a label map, run by onnxruntime",
        )
    ]
