"""BYTES tensors: on the wire each element follows its 4-byte length, in Python they are object arrays."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capstan_serving._native import Memory

_LENGTH = struct.Struct("<I")


def decode(memory: Memory | bytes, shape: tuple[int, ...], text: bool) -> NDArray[Any]:
    """Elements of a tensor that is known to be well formed, as `str` when they are text, else `bytes`."""
    view = memoryview(memory)
    elements = np.empty(shape, dtype=object)
    flat = elements.reshape(-1)
    position = 0
    for index in range(flat.size):
        (length,) = _LENGTH.unpack_from(view, position)
        start, position = position + 4, position + 4 + length
        element = bytes(view[start:position])
        flat[index] = element.decode() if text else element
    return elements


def encode(elements: NDArray[Any]) -> bytes:
    """The wire form of an array of `str` or `bytes`."""
    parts: list[bytes] = []
    for element in elements.reshape(-1):
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)
