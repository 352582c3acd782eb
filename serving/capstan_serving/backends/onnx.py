"""ONNX models, executed by ONNX Runtime in this process (it releases the GIL while it computes).

External data are ONNX Runtime's to guard: since 1.24 it refuses any that lie outside the model's folder,
by an absolute path, by `..` or through a symbolic link; a contract test holds it to that.
"""

import ctypes
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capstan_serving._native import Batch
from capstan_serving.backends.options import DEFAULT, SessionOptions
from capstan_serving.backends.tensorrt import Options
from capstan_serving.config.plan import PLATFORM
from capstan_serving.errors import InvalidArgument, ModelLoadError
from capstan_serving.signature import Signature, TensorSpec

# ONNX Runtime reports home unless it is told not to, before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

FILE = "model.onnx"

CPU: Sequence[tuple[str, Options]] = (("CPUExecutionProvider", {}),)

MAX_BATCH = 8
"""Rows executed together. Measured: beyond this, small models gain little and latency only grows."""

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_BFLOAT16 = 16
"""`onnx.TensorProto.BFLOAT16`: numpy has no such type, so ONNX Runtime is told by number."""

_UNREADABLE = (ort_errors.InvalidProtobuf, ort_errors.NoModel, ort_errors.NoSuchFile)


class OnnxBackend:
    """A model file in ONNX Runtime: one session for each device, which all workers share.

    Arrays are given to `run` as they are. Measured on CPU, in processor time a call: 5 us for a small model,
    where IOBinding takes 10 and OrtValues 46; 35 us for 1 MB in and out, where they take 41 and 88.
    """

    platform = PLATFORM

    def __init__(
        self,
        file: Path,
        options: SessionOptions = DEFAULT,
        providers: Sequence[Sequence[tuple[str, Options]]] = (CPU,),
        libraries: Sequence[Path] = (),
    ) -> None:
        """`providers` has the choice of each device; `libraries` hold custom operators."""
        try:
            self._sessions = [
                ort.InferenceSession(file, _options(options, libraries), providers=list(choice))
                for choice in providers
            ]
        except Exception as error:  # its classes have no common base of their own
            raise ModelLoadError(_reason(file, error)) from error
        self._turn = itertools.count()
        self._run_options = None
        if options.shrink:
            self._run_options = ort.RunOptions()
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", options.shrink)
        self.signature = _signature(file, self._sessions[0])
        self.providers: tuple[str, ...] = tuple(self._sessions[0].get_providers())
        specs = (*self.signature.inputs, *self.signature.outputs)
        self._bfloat16 = {spec.name for spec in specs if spec.datatype == "BF16"}

    def execute(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """Run a session."""
        session = self._sessions[0] if len(self._sessions) == 1 else self._next()
        try:
            if self._bfloat16:
                return self._execute_values(session, batch)
            outputs: Sequence[NDArray[Any]] = session.run(batch.outputs, batch.inputs, self._run_options)
        except ort_errors.InvalidArgument as error:
            # Names, datatypes and shapes were checked before: what is left is the values, say an index
            # beyond a table, or dimensions that do not go together.
            raise InvalidArgument(f"the model refuses the request: {error}") from error
        return outputs

    def close(self) -> None:
        """Give the memory back. Nothing is executed any more."""
        self._sessions.clear()

    def _next(self) -> ort.InferenceSession:
        return self._sessions[next(self._turn) % len(self._sessions)]

    def _execute_values(self, session: ort.InferenceSession, batch: Batch) -> Sequence[NDArray[Any]]:
        """The same with values that have a type of their own, for models with BF16 tensors."""
        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            if name in self._bfloat16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in batch.inputs.items()
        }
        values = session.run_with_ort_values(list(batch.outputs), inputs, self._run_options)
        return [
            _bits(value) if name in self._bfloat16 else value.numpy()
            for name, value in zip(batch.outputs, values, strict=True)
        ]


def available() -> tuple[str, ...]:
    """The providers that the installed ONNX Runtime has."""
    return tuple(ort.get_available_providers())


def _options(chosen: SessionOptions, libraries: Sequence[Path]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = chosen.intra_op_threads
    options.inter_op_num_threads = chosen.inter_op_threads
    if chosen.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = f"ORT_{'' if chosen.graph_level == 'DISABLE_ALL' else 'ENABLE_'}{chosen.graph_level}"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.enable_cpu_mem_arena = chosen.mem_arena
    options.enable_mem_pattern = chosen.mem_pattern
    for key, value in chosen.entries.items():
        options.add_session_config_entry(key, value)
    for library in libraries:
        options.register_custom_ops_library(str(library))
    options.log_severity_level = 3
    return options


def _bits(value: ort.OrtValue) -> NDArray[np.uint16]:
    """A copy of a BF16 tensor's bits."""
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, dtype=np.uint16).reshape(value.shape())


def _signature(file: Path, session: ort.InferenceSession) -> Signature:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    first = {tensor.shape[0] if tensor.shape else 0 for tensor in (*inputs, *outputs)}
    # Only a dimension that the model itself calls by one name everywhere is taken for the batch.
    batched = bool(inputs) and len(first) == 1 and isinstance(first.pop(), str)
    return Signature(
        inputs=tuple(_spec(file, tensor) for tensor in inputs),
        outputs=tuple(_spec(file, tensor) for tensor in outputs),
        max_batch=MAX_BATCH if batched else None,
    )


def _spec(file: Path, tensor: ort.NodeArg) -> TensorSpec:
    datatype = _DATATYPES.get(tensor.type)
    if datatype is None:
        raise ModelLoadError(
            f"{file}: '{tensor.name}' is a {tensor.type}, which the protocol cannot carry; export the model "
            "so that its inputs and outputs are plain tensors"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, datatype, shape, text=datatype == "BYTES")


def _reason(file: Path, error: Exception) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, _UNREADABLE) or "No graph was found" in said:
        return (
            f"{file} is not a whole ONNX model ({said}); export it again, or copy it again if it was cut off"
        )
    runtime = f"ONNX Runtime {ort.__version__}"
    return f"{file} cannot be loaded by {runtime} ({said}); correct the model and export it again"
