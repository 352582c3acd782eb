"""How far the server is from bare ONNX Runtime: a tiny MLP and 1 MB, over HTTP and gRPC, on this machine.

    uv run python tests/bench/serving_smoke.py [SECONDS]

Needs wrk and h2load (Debian: wrk, nghttp2-client). All traffic is on loopback. The load generators share the
processors with the server, and bare ONNX Runtime has them to itself: this is a smoke alarm, no benchmark.
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2

CONNECTIONS = 32


def save(
    file: Path, width: int, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], out: int
) -> None:
    """A model from [N, width] to [N, out]."""
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", out])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    file.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def models(repository: Path) -> dict[str, int]:
    """Write them; the width of each one's input."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"], axis=1),
    ]
    shapes = {"w1": (4, 16), "b1": (16,), "w2": (16, 3), "b2": (3,)}
    weights = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    save(repository / "mlp" / "1" / "model.onnx", 4, nodes, weights, 3)
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    save(repository / "identity" / "1" / "model.onnx", 262144, identity, {}, 262144)
    return {"mlp": 4, "identity": 262144}


def bare(file: Path, width: int, seconds: float) -> float:
    """Runs a second from two threads with the server's own settings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    array = np.ones((1, width), np.float32)
    counts = [0, 0]
    end = time.monotonic() + seconds

    def run(index: int) -> None:
        while time.monotonic() < end:
            session.run(None, {"x": array})
            counts[index] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def over_http(
    address: str, model: str, width: int, connections: int, seconds: int, folder: Path
) -> tuple[float, str]:
    """wrk's numbers: the rate, and the latencies."""
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, width],
        "parameters": {"binary_data_size": 4 * width},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    content = folder / "body"
    content.write_bytes(head + np.ones(width, np.float32).tobytes())
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nlocal f = io.open("{content}", "rb")\nwrk.body = f:read("*a")\n'
        f'wrk.headers["Inference-Header-Content-Length"] = "{len(head)}"\n'
    )
    url = f"http://{address}/v2/models/{model}/infer"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in output, output
    latency = " ".join(" ".join(line) for line in re.findall(r"(50%|99%)\s+(\S+)", output))
    rate = float(re.search(r"Requests/sec:\s+(\S+)", output)[1])
    return rate, latency


def over_grpc(
    address: str, model: str, width: int, connections: int, seconds: int, folder: Path
) -> tuple[float, str]:
    """h2load's numbers: the rate, and the latencies."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, width])
    request.raw_input_contents.append(np.ones(width, np.float32).tobytes())
    message = request.SerializeToString()
    content = folder / "message"
    content.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    url = f"http://{address}/inference.GRPCInferenceService/ModelInfer"
    command = ["h2load", "-t1", f"-c{connections}", "-m1", "-w24", "-W24", f"-D{seconds}", "-d", str(content)]
    output = subprocess.run([*command, *headers, url], check=True, capture_output=True, text=True).stdout
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+(\S+)", output)[1]
    failed = re.search(r"(\d+) failed", output)[1]
    answered = int(re.search(r"\((\d+)\) data", output)[1])
    assert failed == "0", output
    assert answered > 0, output
    rate = float(re.search(r", (\S+) req/s", output)[1])
    return rate, f"mean {mean}"


def processor_seconds(pid: int) -> float:
    """What a process has used: unlike its rate, this says something on a busy machine too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a table."""
    for tool in ("wrk", "h2load"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is needed: apt-get install wrk nghttp2-client")
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "models"
        widths = models(repository)
        arguments = ["--model-repository", str(repository), "--host", "127.0.0.1"]
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        command = [sys.executable, "-m", "capstan_serving", *arguments, *ports]
        for model, width in widths.items():
            rate = bare(repository / model / "1" / "model.onnx", width, seconds)
            print(f"{model:9} bare ONNX Runtime, 2 threads  {rate:9,.0f}/s", flush=True)
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as server:
            try:
                log = ""
                while "ready" not in log:
                    log += server.stderr.readline() or sys.exit(log)
                http, grpc = re.search(r"HTTP (\S+), gRPC (\S+),", log).groups()
                for model, width in widths.items():
                    for connections in (1, CONNECTIONS if model == "mlp" else 8):
                        load = (model, width, connections, seconds, folder)
                        for door, address, run in (("HTTP", http, over_http), ("gRPC", grpc, over_grpc)):
                            before = processor_seconds(server.pid)
                            rate, latency = run(address, *load)
                            used = (processor_seconds(server.pid) - before) / (rate * seconds) * 1e6
                            figures = f"{rate:9,.0f}/s  {latency}  {used:.0f} us CPU"
                            print(f"{model:9} {door} c{connections:<2} {figures}", flush=True)
            finally:
                server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
