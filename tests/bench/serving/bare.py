"""Bare ONNX Runtime: `session.run` from two threads, with the server's settings, and nothing else.

python bare.py MODEL.onnx INPUT.npy SECONDS

Needs numpy and onnxruntime. It prints runs a second, and the processor time of each in microseconds.
"""

import sys
import threading
import time

import numpy as np
import onnxruntime as ort

file, sample, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
feeds = {session.get_inputs()[0].name: np.load(sample)}
session.run(None, feeds)
counts = [0, 0]


def run(index: int, end: float) -> None:
    while time.monotonic() < end:
        session.run(None, feeds)
        counts[index] += 1


start, used = time.monotonic(), time.process_time()
threads = [threading.Thread(target=run, args=(index, start + seconds)) for index in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(counts) / (time.monotonic() - start), (time.process_time() - used) / sum(counts) * 1e6)
