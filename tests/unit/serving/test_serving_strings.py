"""BYTES tensors between the wire and numpy."""

import numpy as np
from capstan_serving.strings import decode, encode
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9))
def test_bytes_round_trip(elements):
    array = np.empty((len(elements), 1), dtype=object)
    array[:, 0] = elements
    np.testing.assert_array_equal(decode(encode(array), array.shape, text=False), array)


@given(st.lists(st.text(max_size=9), min_size=1, max_size=9))
def test_text_round_trips(elements):
    array = np.array(elements, dtype=object)
    np.testing.assert_array_equal(decode(encode(array), array.shape, text=True), array)


def test_the_length_comes_first():
    assert encode(np.array(["é", b"\xff"], dtype=object)) == b"\2\0\0\0\xc3\xa9\1\0\0\0\xff"
