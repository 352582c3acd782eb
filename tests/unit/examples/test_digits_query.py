"""What the query program makes of good, bad and missing answers."""

import digits
import numpy as np
import pytest
import query


class Unavailable(Exception):
    """What a client would raise."""


@pytest.fixture
def data() -> digits.Digits:
    """Twenty digits whose first pixel is their label."""
    labels = np.arange(20, dtype=np.int64) % 10
    images = np.zeros((20, digits.PIXELS), dtype=np.float32)
    images[:, 0] = labels
    return digits.Digits(images, labels)


def right(images):
    return np.eye(10, dtype=np.float32)[images[:, 0].astype(int)], "3"


def test_a_good_service(data: digits.Digits) -> None:
    report = query.measure(right, data, (Unavailable,))
    assert (report.requests, report.errors, report.accuracy, report.model_version) == (21, 0, 1.0, "3")
    assert 0 < report.p50_ms <= report.p99_ms
    assert query.acceptable(report, 0.95)


def test_wrong_answers_are_not_errors_but_not_acceptable(data: digits.Digits) -> None:
    def always_zero(images):
        return np.eye(10, dtype=np.float32)[np.zeros(len(images), dtype=int)], "1"

    report = query.measure(always_zero, data, (Unavailable,))
    assert (report.errors, report.accuracy) == (0, 0.1)
    assert not query.acceptable(report, 0.95)


def test_a_request_that_fails_is_an_error_and_the_rest_goes_on(
    data: digits.Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_sevens(images):
        if len(images) == 1 and images[0, 0] == 7:
            raise Unavailable("out of sevens")
        return right(images)

    report = query.measure(no_sevens, data, (Unavailable,))
    assert (report.errors, report.accuracy) == (2, 0.9)
    assert not query.acceptable(report, 0.5)
    assert "digit 7: out of sevens" in capsys.readouterr().err


def test_a_batch_that_answers_otherwise_is_an_error(data: digits.Digits) -> None:
    def shuffled(images):
        logits, version = right(images)
        return logits[::-1], version

    report = query.measure(shuffled, data, (Unavailable,))
    assert (report.errors, report.accuracy) == (1, 1.0)


def test_a_service_that_never_answers(data: digits.Digits) -> None:
    def down(images):
        raise Unavailable("connection refused")

    report = query.measure(down, data, (Unavailable,))
    assert (report.errors, report.accuracy, report.p99_ms, report.model_version) == (21, 0.0, 0.0, "")


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles_are_values_that_were_measured(share: float, expected: float) -> None:
    assert query.percentile(list(range(100, 0, -1)), share) == expected


def test_the_percentile_of_nothing_is_zero() -> None:
    assert query.percentile([], 0.5) == 0.0


def test_the_split_is_fixed_and_holds_out_what_it_says() -> None:
    images = np.arange(1000, dtype=np.float32)[:, None].repeat(2, axis=1)
    labels = np.arange(1000, dtype=np.int64)
    one, two = digits.split(images, labels, 200), digits.split(images, labels, 200)
    assert np.array_equal(one.test.labels, two.test.labels)
    assert len(one.test.labels) == 200
    assert set(one.test.labels.tolist()) | set(one.train.labels.tolist()) == set(range(1000))
    assert np.array_equal(one.train.images[:, 0], one.train.labels)
