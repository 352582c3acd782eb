"""Tensors in system shared memory, with tritonclient's own utilities."""

import json
import os
import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

MODULES = {"http": triton_http, "grpc": triton_grpc}


@pytest.fixture(params=["http", "grpc"])
def kind(request):
    return request.param


@pytest.fixture
def client(sharing, kind):
    with MODULES[kind].InferenceServerClient(getattr(sharing, kind)) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def area():
    """Make objects in /dev/shm; they are gone after the test."""
    made = []

    def area(size):
        key = f"/capstan-test-{uuid.uuid4().hex}"
        made.append(shm.create_shared_memory_region(key[1:], key, size))
        return key, made[-1]

    yield area
    for handle in made:
        shm.destroy_shared_memory_region(handle)


def input_in(kind, region, shape, datatype, size, offset=0):
    tensor = MODULES[kind].InferInput("x", list(shape), datatype)
    tensor.set_shared_memory(region, size, offset)
    return tensor


def output_in(kind, region, size, offset=0):
    output = MODULES[kind].InferRequestedOutput("y")
    output.set_shared_memory(region, size, offset)
    return output


def test_inputs_and_outputs_lie_in_shared_memory(client, kind, area):
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    key, handle = area(128)
    shm.set_shared_memory_region(handle, [values], offset=8)
    client.register_system_shared_memory("r", key, 128)
    result = client.infer(
        "identity_fp32",
        [input_in(kind, "r", (5, 2), "FP32", 40, 8)],
        outputs=[output_in(kind, "r", 64, 64)],
    )
    output = result.get_output("y")
    shape = output["shape"] if kind == "http" else list(output.shape)
    assert "data" not in output if kind == "http" else result.get_response().raw_output_contents == [b""]
    assert shape == [5, 2]
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, shape, 64), values)


def test_strings_lie_in_shared_memory(client, kind, area):
    words = np.array([["a", "Grüße"]], dtype=object)
    key, handle = area(256)
    packed = serialize_byte_tensor(words).item()
    size = len(packed)
    shm.set_shared_memory_region(handle, [np.frombuffer(packed, np.uint8)])
    client.register_system_shared_memory("r", key, 256)
    result = client.infer(
        "identity_bytes",
        [input_in(kind, "r", (1, 2), "BYTES", size)],
        outputs=[output_in(kind, "r", 100, 128)],
    )
    assert result is not None
    found = shm.get_contents_as_numpy(handle, np.object_, [1, 2], 128)
    assert [word.decode() for word in found.flat] == list(words.flat)


def test_the_offset_of_a_region_counts(client, kind, area):
    key, handle = area(64)
    shm.set_shared_memory_region(handle, [np.array([7, 9], np.float32)], offset=32)
    client.register_system_shared_memory("r", key, 16, 24)
    result = client.infer("identity_fp32", [input_in(kind, "r", (1, 2), "FP32", 8, 8)])
    np.testing.assert_array_equal(result.as_numpy("y"), [[7, 9]])


def test_raw_contents_belong_to_what_is_not_in_shared_memory(sharing, area):
    """Of two inputs the first is in shared memory: the only raw entry is the second's."""
    key, handle = area(16)
    shm.set_shared_memory_region(handle, [np.array([[1, 2]], np.int32)])
    with triton_grpc.InferenceServerClient(sharing.grpc) as client:
        client.register_system_shared_memory("two", key, 16)
        first = triton_grpc.InferInput("a", [1, 2], "INT32")
        first.set_shared_memory("two", 8)
        second = triton_grpc.InferInput("b", [1, 2], "INT32")
        second.set_data_from_numpy(np.array([[10, 20]], np.int32))
        there = triton_grpc.InferRequestedOutput("sum")
        there.set_shared_memory("two", 8, 8)
        outputs = [there, triton_grpc.InferRequestedOutput("difference")]
        result = client.infer("sums", [first, second], outputs=outputs)
        np.testing.assert_array_equal(result.as_numpy("difference"), [[-9, -18]])
        np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.int32, [1, 2], 8), [[11, 22]])
        assert [len(raw) for raw in result.get_response().raw_output_contents] == [0, 8]
        client.unregister_system_shared_memory("two")


def test_status_shows_regions_until_they_are_unregistered(client, kind, area):
    key, _ = area(64)
    client.register_system_shared_memory("a", key, 32, 16)
    client.register_system_shared_memory("b", key, 64)

    def status(*name):
        answer = client.get_system_shared_memory_status(*name)
        regions = answer if kind == "http" else answer.regions.values()
        get = (lambda region, field: region[field]) if kind == "http" else getattr
        return {
            get(region, "name"): tuple(get(region, field) for field in ("key", "offset", "byte_size"))
            for region in regions
        }

    assert status() == {"a": (key, 16, 32), "b": (key, 0, 64)}
    assert status("a") == {"a": (key, 16, 32)}
    client.unregister_system_shared_memory("a")
    assert set(status()) == {"b"}
    with pytest.raises(InferenceServerException, match="'a'"):
        status("a")
    client.unregister_system_shared_memory()
    assert status() == {}


def test_a_region_is_registered_once(client, kind, area):
    key, _ = area(64)
    client.register_system_shared_memory("r", key, 64)
    with pytest.raises(InferenceServerException, match="'r' is already registered") as caught:
        client.register_system_shared_memory("r", key, 32)
    assert caught.value.status() == {"http": "400", "grpc": "StatusCode.ALREADY_EXISTS"}[kind]


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("size", "offset"),
    [(65, 0), (64, 1), (1, 64), (HUGE, 0), (HUGE, HUGE), (1, HUGE), (0, 0), (1 << 63, 1 << 63)],
)
def test_a_region_lies_inside_its_object(client, area, size, offset):
    key, _ = area(64)
    with pytest.raises(InferenceServerException, match="'r' cannot be registered"):
        client.register_system_shared_memory("r", key, size, offset)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "..",
        "/..",
        "../etc/passwd",
        "/../../etc/passwd",
        "a/b",
        "/nothing-of-that-name",
        "\0",
        "x\0y",
        "é" * 300,
    ],
)
def test_keys_lead_nowhere_else(client, key):
    with pytest.raises(InferenceServerException, match="'r' cannot be registered"):
        client.register_system_shared_memory("r", key, 1)


def test_links_and_folders_are_no_objects(client, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    name = f"capstan-test-{uuid.uuid4().hex}"
    link, folder, pipe = (Path("/dev/shm") / f"{name}-{what}" for what in ("link", "folder", "pipe"))
    link.symlink_to(secret)
    folder.mkdir()
    os.mkfifo(pipe)
    try:
        for path in (link, folder, pipe):
            with pytest.raises(InferenceServerException, match="'r' cannot be registered"):
                client.register_system_shared_memory("r", path.name, 1)
    finally:
        link.unlink()
        folder.rmdir()
        pipe.unlink()


@pytest.mark.parametrize(("size", "offset"), [(8, 60), (65, 0), (HUGE, 1), (8, HUGE), (1 << 63, 1 << 63)])
def test_a_tensor_lies_inside_its_region(client, kind, area, size, offset):
    key, _ = area(4096)
    client.register_system_shared_memory("r", key, 64)
    if kind == "http":
        region = {
            "shared_memory_region": "r",
            "shared_memory_byte_size": size,
            "shared_memory_offset": offset,
        }
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": region}
        calls = [{"inputs": [tensor]}]
        data = {key: value for key, value in tensor.items() if key != "parameters"} | {"data": [1, 2]}
        calls.append({"inputs": [data], "outputs": [{"name": "y", "parameters": region}]})
        for call in calls:
            answer = client._post("v2/models/identity_fp32/infer", json.dumps(call), None, None)
            assert (answer.status_code, b"shared memory region 'r'" in answer.read()) == (400, True)
        return
    request = service_pb2.ModelInferRequest(model_name="identity_fp32")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].uint64_param = size
    tensor.parameters["shared_memory_offset"].uint64_param = offset
    with pytest.raises(Exception, match="shared memory region 'r'"):
        client._client_stub.ModelInfer(request)


def test_an_input_of_another_size_than_its_shape_is_refused(client, kind, area):
    key, _ = area(64)
    client.register_system_shared_memory("r", key, 64)
    for size in (4, 12, 64):
        with pytest.raises(InferenceServerException, match="'x' has"):
            client.infer("identity_fp32", [input_in(kind, "r", (1, 2), "FP32", size)])


def test_an_output_region_that_is_too_small_is_named(client, kind, area):
    key, handle = area(64)
    shm.set_shared_memory_region(handle, [np.array([1, 2], np.float32)])
    client.register_system_shared_memory("r", key, 64)
    inputs = [input_in(kind, "r", (1, 2), "FP32", 8)]
    with pytest.raises(InferenceServerException, match=r"output 'y' has 8 bytes.*'r' only 7"):
        client.infer("identity_fp32", inputs, outputs=[output_in(kind, "r", 7, 32)])
    assert shm.get_contents_as_numpy(handle, np.uint8, [8], 32).tolist() == [0] * 8


def test_an_unknown_region_is_named(client, kind):
    with pytest.raises(InferenceServerException, match="no shared memory region 'nothing'"):
        client.infer("identity_fp32", [input_in(kind, "nothing", (1, 2), "FP32", 8)])


def test_strings_whose_lengths_lie_are_refused(client, kind, area):
    key, handle = area(64)
    shm.set_shared_memory_region(handle, [np.frombuffer(b"\xff\xff\xff\xffabcd", np.uint8)])
    client.register_system_shared_memory("r", key, 64)
    with pytest.raises(InferenceServerException, match="'x' does not hold exactly"):
        client.infer("identity_bytes", [input_in(kind, "r", (1, 1), "BYTES", 8)])


def test_an_object_that_its_owner_shortens_is_an_error_and_no_crash(client, kind, area, sharing):
    key, handle = area(1 << 16)
    values = np.ones((128, 64), np.float32)
    shm.set_shared_memory_region(handle, [values])
    client.register_system_shared_memory("r", key, 1 << 16)
    inputs = [input_in(kind, "r", values.shape, "FP32", values.nbytes)]
    outputs = [output_in(kind, "r", values.nbytes, 1 << 15)]
    client.infer("identity_fp32", inputs, outputs=outputs)
    os.truncate(f"/dev/shm{key}", 1 << 15)
    with pytest.raises(InferenceServerException, match="'r' has become shorter"):
        client.infer("identity_fp32", inputs, outputs=outputs)
    os.truncate(f"/dev/shm{key}", 0)
    with pytest.raises(InferenceServerException, match="'r' has become shorter"):
        client.infer("identity_fp32", inputs)
    assert Path(f"/dev/shm{key}").stat().st_size == 0
    assert sharing.get("/v2/health/live")[0] == 200


def test_a_request_in_flight_keeps_its_region(own_repository, start, area):
    """Unregistered while the model executes: the answer still arrives where it was asked to."""
    own_repository.add_spin()
    slow = start(own_repository, "--allow-shared-memory", "--workers", "1").ready()
    key, handle = area(16)
    shm.set_shared_memory_region(handle, [np.array([8000], np.int64), np.array([-1, -1], np.float32)])
    with triton_http.InferenceServerClient(slow.http, network_timeout=60) as client:
        client.register_system_shared_memory("r", key, 16)
        tensor = triton_http.InferInput("n", [1], "INT64")
        tensor.set_shared_memory("r", 8)
        output = triton_http.InferRequestedOutput("y")
        output.set_shared_memory("r", 4, 8)
        other = triton_http.InferenceServerClient(slow.http, network_timeout=60)
        with ThreadPoolExecutor(1) as pool, other:
            answer = pool.submit(other.infer, "spin", [tensor], outputs=[output])
            queued = 'nv_inference_queue_duration_us{model="spin",version="1"}'
            slow.until(lambda: slow.scrape()[queued] > 0)
            client.unregister_system_shared_memory("r")
            assert client.get_system_shared_memory_status() == []
            assert not answer.done()
            answer.result(60)
    assert shm.get_contents_as_numpy(handle, np.float32, [2], 8)[0] != -1
    descriptors = Path(f"/proc/{slow.process.pid}/fd")
    slow.until(lambda: not any(str(link.readlink()).endswith(key) for link in descriptors.iterdir()))


def test_a_client_that_changes_its_bytes_all_the_time_breaks_nothing(sharing, area):
    """Lengths of strings that change between being checked and being used."""
    key, handle = area(64)
    good = np.frombuffer(b"\x04\0\0\0abcd", np.uint8)
    bad = np.frombuffer(b"\xff\xff\xff\x7fabcd", np.uint8)
    with triton_grpc.InferenceServerClient(sharing.grpc) as client, ThreadPoolExecutor(1) as pool:
        client.register_system_shared_memory("changing", key, 64)
        stop = []

        def change():
            while not stop:
                shm.set_shared_memory_region(handle, [good])
                shm.set_shared_memory_region(handle, [bad])

        changing = pool.submit(change)
        inputs = [input_in("grpc", "changing", (1, 1), "BYTES", 8)]
        answers = set()
        for _ in range(500):
            try:
                answers.add(str(client.infer("identity_bytes", inputs).as_numpy("y").tolist()))
            except InferenceServerException as error:
                answers.add(error.message())
        stop.append(True)
        changing.result()
        assert all(answer == "[[b'abcd']]" or "'x' does not hold" in answer for answer in answers), answers
        client.unregister_system_shared_memory("changing")
    assert sharing.get("/v2/health/live")[0] == 200


def test_more_regions_than_there_may_be(sharing, area):
    key, _ = area(64)
    with triton_grpc.InferenceServerClient(sharing.grpc) as client:
        for number in range(512):
            client.register_system_shared_memory(f"many-{number}", key, 64)
        with pytest.raises(InferenceServerException, match="512 shared memory regions already"):
            client.register_system_shared_memory("one-more", key, 64)
        client.unregister_system_shared_memory()


def test_shared_memory_is_not_slower_than_sending_what_is_large(sharing, area):
    """A megabyte: no claim about the time itself, which depends on the machine."""
    values = np.random.default_rng(0).standard_normal((1, 262144)).astype(np.float32)
    key, handle = area(2 * values.nbytes)
    shm.set_shared_memory_region(handle, [values])
    with triton_grpc.InferenceServerClient(sharing.grpc) as client:
        client.register_system_shared_memory("large", key, 2 * values.nbytes)
        there = [input_in("grpc", "large", values.shape, "FP32", values.nbytes)]
        out = [output_in("grpc", "large", values.nbytes, values.nbytes)]
        sent = triton_grpc.InferInput("x", list(values.shape), "FP32")
        sent.set_data_from_numpy(values)

        def median(call):
            times = []
            for _ in range(20):
                begin = time.perf_counter()
                call()
                times.append(time.perf_counter() - begin)
            return statistics.median(times)

        by_memory = median(lambda: client.infer("big", there, outputs=out))
        by_message = median(lambda: client.infer("big", [sent]))
        np.testing.assert_array_equal(
            shm.get_contents_as_numpy(handle, np.float32, values.shape, values.nbytes), values
        )
        client.unregister_system_shared_memory("large")
    assert by_memory < 2 * by_message
