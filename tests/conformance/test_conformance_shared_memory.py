"""System shared memory: regions that a client registers, and tensors that travel through them."""

import uuid

import numpy as np
import pytest
import tritonclient.utils.shared_memory as shm

from tests.conformance.target import not_offered, sample

SIZE = 8192
PAGE = 4096  # Triton maps from multiples of it


@pytest.fixture(autouse=True)
def offered(target):
    target.extension("system_shared_memory")
    target.needs("identity_fp32")
    status, answer = target.json(
        "POST", "/v2/systemsharedmemory/region/probe/register", {"key": "/no-such-key", "byte_size": 1}
    )
    if status == 501:
        not_offered(f"system shared memory ({answer['error']})")


class Region:
    """A region of this process, by its name and its key."""

    def __init__(self, size=SIZE):
        self.name = f"r{uuid.uuid4().hex[:8]}"
        self.key = f"/{self.name}"
        self.handle = shm.create_shared_memory_region(self.name, self.key, size)


@pytest.fixture
def region():
    region = Region()
    yield region
    shm.destroy_shared_memory_region(region.handle)


def _registered(client, name=""):
    """The regions that the server knows, by name."""
    answer = client.call("get_system_shared_memory_status", name)
    found = answer if client.is_http else answer["regions"]
    return {item["name"]: item for item in found} if isinstance(found, list) else found


@pytest.fixture
def registered(client, region):
    client.call("register_system_shared_memory", region.name, region.key, SIZE)
    yield region
    client.call("unregister_system_shared_memory", region.name)


def test_register_and_unregister(client, region):
    client.call("register_system_shared_memory", region.name, region.key, 64, PAGE)
    found = _registered(client)[region.name]
    assert (found["key"], found["offset"], found["byte_size"]) == (region.key, PAGE, 64)
    assert set(_registered(client, region.name)) == {region.name}
    client.call("unregister_system_shared_memory", region.name)
    assert region.name not in _registered(client)


def test_unregister_all(client, region):
    client.call("register_system_shared_memory", region.name, region.key, SIZE)
    assert region.name in _registered(client)
    client.call("unregister_system_shared_memory")
    assert _registered(client) == {}


def test_unregistering_what_is_not_there_is_no_error(client):
    client.call("unregister_system_shared_memory", "no_such_region")


def test_a_name_twice(client, registered):
    status, message = client.error(
        "register_system_shared_memory", registered.name, registered.key, SIZE // 2
    )
    assert status == 400, message
    assert registered.name in message


def test_status_of_what_is_not_there(client):
    assert client.error("get_system_shared_memory_status", "no_such_region")[0] == 404


@pytest.mark.parametrize(
    ("size", "offset"), [(SIZE + 1, 0), (SIZE, 1), (2**63, 0), (2**64 - 1, 1), (1, 2**64 - 1), (1, SIZE)]
)
def test_beyond_the_object(client, target, region, size, offset):
    status, message = client.error("register_system_shared_memory", region.name, region.key, size, offset)
    assert status in target.codes(400, 500), message
    assert region.name not in _registered(client)


@pytest.mark.parametrize("key", ["/no_such_key_at_all", "../../etc/passwd", "/../etc/passwd"])
def test_a_key_that_is_none(client, target, key):
    status, message = client.error("register_system_shared_memory", "none", key, 1)
    assert status in target.codes(400, 404, 500), message


def _through(client, region, array, datatype="FP32", into=2048, model="identity_fp32"):
    shm.set_shared_memory_region(region.handle, [array])
    size = array.nbytes if datatype != "BYTES" else 2000
    tensor = client.module.InferInput("x", list(array.shape), datatype)
    tensor.set_shared_memory(region.name, size)
    output = client.module.InferRequestedOutput("y")
    output.set_shared_memory(region.name, 2048, offset=into)
    return client.call("infer", model, [tensor], outputs=[output])


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "BOOL", "FP16", "UINT64"])
def test_there_and_back(client, target, registered, datatype):
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    array = sample(datatype, (3, 5))
    result = _through(client, registered, array, datatype, model=model)
    got = shm.get_contents_as_numpy(registered.handle, array.dtype, [2048 // array.itemsize + 15])
    np.testing.assert_array_equal(got[2048 // array.itemsize :][:15].reshape(3, 5), array)
    response = result.get_response()
    if client.is_http:
        (output,) = response["outputs"]
        assert "data" not in output
    else:
        assert list(response.raw_output_contents) == [b""]


def test_input_there_output_by_wire(client, registered):
    array = sample("FP32", (2, 6))
    shm.set_shared_memory_region(registered.handle, [array], 64)
    tensor = client.module.InferInput("x", [2, 6], "FP32")
    tensor.set_shared_memory(registered.name, array.nbytes, 64)
    result = client.call("infer", "identity_fp32", [tensor])
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_one_input_there_the_other_by_wire(client, target, registered):
    target.needs("sums")
    a, b = np.array([[1, 2]], np.int32), np.array([[5, 7]], np.int32)
    shm.set_shared_memory_region(registered.handle, [a])
    first = client.module.InferInput("a", [1, 2], "INT32")
    first.set_shared_memory(registered.name, 8)
    (second,) = client.inputs(b=("INT32", b))
    for inputs in ([first, second], [second, first]):
        result = client.call("infer", "sums", inputs)
        np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
        np.testing.assert_array_equal(result.as_numpy("difference"), a - b)


@pytest.mark.parametrize(("size", "offset"), [(24, SIZE - 8), (SIZE * 2, 0), (16, 0), (24, 2**62)])
def test_an_input_out_of_its_region(client, registered, size, offset):
    tensor = client.module.InferInput("x", [1, 6], "FP32")
    tensor.set_shared_memory(registered.name, size, offset)
    status, message = client.failing_infer("identity_fp32", [tensor])
    assert status == 400, message


@pytest.mark.parametrize(("size", "offset"), [(8, 0), (24, SIZE - 8), (24, 2**62)])
def test_an_output_that_finds_no_room(client, target, registered, size, offset):
    inputs = client.inputs(x=("FP32", np.ones((1, 6), np.float32)))
    output = client.module.InferRequestedOutput("y")
    output.set_shared_memory(registered.name, size, offset)
    status, message = client.failing_infer("identity_fp32", inputs, outputs=[output])
    assert status in target.codes(400, 500), message


def test_a_region_that_is_not_registered(client, target):
    tensor = client.module.InferInput("x", [1, 6], "FP32")
    tensor.set_shared_memory("no_such_region", 24)
    status, message = client.failing_infer("identity_fp32", [tensor])
    assert status in target.codes(404, 400), message
    assert "no_such_region" in message
