"""The data: 1,797 handwritten digits, 8 x 8 pixels of 0 to 16 each, and the share of them that is held out.

`train.py` and `query.py` read it alike, so what the service is asked about is what the model has not seen.
Nothing is downloaded: the digits ship in the scikit-learn package.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PIXELS = 64
CLASSES = 10
HELD_OUT = 360
_SPLIT_SEED = 20


class Digits(NamedTuple):
    """Images, float32 [n, 64], and their labels, int64 [n]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


class Split(NamedTuple):
    """What is trained on, and what is held out."""

    train: Digits
    test: Digits


def split(images: NDArray[np.float32], labels: NDArray[np.int64], held_out: int = HELD_OUT) -> Split:
    """Hold out `held_out` digits, the same ones every time."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    test, train = order[:held_out], order[held_out:]
    return Split(Digits(images[train], labels[train]), Digits(images[test], labels[test]))


def load() -> Split:
    """Read the digits from the scikit-learn package."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  so that the split can be tested without scikit-learn

    images, labels = load_digits(return_X_y=True)
    return split(images.astype(np.float32), labels.astype(np.int64))
