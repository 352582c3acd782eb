"""Asks a served digits model about every held-out digit, over HTTP and gRPC, with Triton's own client.

    python query.py --http-url http://digits:8000 --grpc-url digits:8001 --model digits

Each digit is asked about on its own and then all of them as one batch; the answers are compared with the
labels. What was measured is printed as one line of JSON. The exit status is 1 if too many answers were wrong,
or any request failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import digits
import numpy as np
from numpy.typing import NDArray

# Given images [n, 64], the logits [n, 10] and the version of the model that answered.
Ask = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], str]]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured over one protocol; times in milliseconds, of the requests for a single digit."""

    requests: int
    errors: int
    accuracy: float
    p50_ms: float
    p99_ms: float
    model_version: str


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; 0 when there are none."""
    ordered = sorted(values)
    return ordered[max(0, int(np.ceil(share * len(ordered))) - 1)] if ordered else 0.0


def measure(ask: Ask, data: digits.Digits, failures: tuple[type[Exception], ...]) -> Report:
    """Ask about each digit, then about all at once.

    A request has failed if it raises one of `failures`; the batch also if it answers otherwise than they did.
    """
    seconds: list[float] = []
    predicted = np.full(len(data.labels), -1)
    errors, version = 0, ""
    for index in range(len(data.labels)):
        began = time.perf_counter()
        try:
            logits, version = ask(data.images[index : index + 1])
        except failures as error:
            errors += 1
            print(f"digit {index}: {error}", file=sys.stderr)
        else:
            seconds.append(time.perf_counter() - began)
            predicted[index] = logits.argmax()
    try:
        together = ask(data.images)[0].argmax(axis=1)
    except failures as error:
        errors += 1
        print(f"the batch: {error}", file=sys.stderr)
    else:
        answered = predicted >= 0
        errors += not np.array_equal(together[answered], predicted[answered])
    return Report(
        requests=len(data.labels) + 1,
        errors=errors,
        accuracy=round(float((predicted == data.labels).mean()), 4),
        p50_ms=round(1000 * percentile(seconds, 0.5), 3),
        p99_ms=round(1000 * percentile(seconds, 0.99), 3),
        model_version=version,
    )


def over_http(url: str, model: str) -> tuple[Ask, tuple[type[Exception], ...]]:
    """Ask over HTTP, with binary tensors; also what the client raises."""
    import tritonclient.http as triton  # noqa: PLC0415  gevent patches nothing until it is wanted
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    scheme, _, address = url.rpartition("://")
    client = triton.InferenceServerClient(address.rstrip("/"), ssl=scheme == "https")

    def ask(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
        tensor = triton.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        result = client.infer(model, [tensor], outputs=[triton.InferRequestedOutput("logits")])
        return result.as_numpy("logits"), str(result.get_response()["model_version"])

    return ask, (InferenceServerException, OSError)


def over_grpc(url: str, model: str) -> tuple[Ask, tuple[type[Exception], ...]]:
    """Ask over gRPC; also what the client raises."""
    import tritonclient.grpc as triton  # noqa: PLC0415
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    client = triton.InferenceServerClient(url)

    def ask(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
        tensor = triton.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        result = client.infer(
            model, [tensor], outputs=[triton.InferRequestedOutput("logits")], client_timeout=30
        )
        return result.as_numpy("logits"), str(result.get_response().model_version)

    return ask, (InferenceServerException,)


def acceptable(report: Report, min_accuracy: float) -> bool:
    """Whether the service answered every request, and well enough."""
    return report.errors == 0 and report.accuracy >= min_accuracy


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--http-url", required=True, help="http://HOST:PORT")
    parser.add_argument("--grpc-url", required=True, help="HOST:PORT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--min-accuracy", type=float, default=0.95)
    return parser.parse_args()


def main() -> int:
    """Measure both protocols; return the exit status."""
    options = arguments()
    data = digits.load().test
    reports: dict[str, Report] = {}
    for protocol, (ask, failures) in {
        "http": over_http(options.http_url, options.model),
        "grpc": over_grpc(options.grpc_url, options.model),
    }.items():
        report = reports[protocol] = measure(ask, data, failures)
        print(
            f"{protocol}: {report.requests} requests, {report.errors} errors, accuracy {report.accuracy:.4f},"
            f" p50 {report.p50_ms} ms, p99 {report.p99_ms} ms",
            file=sys.stderr,
        )
    print(
        json.dumps({"model": options.model, **{name: asdict(report) for name, report in reports.items()}}),
        flush=True,
    )
    return 0 if all(acceptable(report, options.min_accuracy) for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
