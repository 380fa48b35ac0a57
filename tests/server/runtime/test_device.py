"""A device is chosen by what it does, not by what it says it could."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from server import machine
from server.errors import StartError
from server.runtime import device


def test_the_probe_is_one_convolution() -> None:
    weight = numpy_helper.from_array(np.full((1, 1, 3, 3), 1 / 9, np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 20)]
    wanted = helper.make_model(graph, ir_version=10, opset_imports=opsets, producer_name="modelzoo")
    committed = onnx.load(Path(device.__file__).with_name("probe.onnx"))
    assert committed == wanted


def test_the_cpu_works() -> None:
    choice = device.choose("cpu", threads=1)
    assert (choice.device.name, choice.device.provider) == ("cpu", "CPUExecutionProvider")
    assert choice.fallback_reason == ""


def test_a_device_that_is_not_there_is_refused_with_a_reason() -> None:
    with pytest.raises(StartError) as caught:
        device.choose("cuda:31", threads=1)
    assert re.fullmatch(r"device cuda:31 does not work: .{10,}", str(caught.value), re.DOTALL)


def test_auto_takes_cuda_where_it_works_and_says_why_where_it_does_not() -> None:
    choice = device.choose("auto", threads=1)
    if choice.device.ordinal is None:
        assert choice.fallback_reason.startswith("device cuda:0 does not work: ")
    else:
        assert (choice.device.name, choice.fallback_reason) == ("cuda:0", "")


@pytest.mark.gpu
def test_cuda_serves_with_the_cuda_provider() -> None:
    assert device.choose("cuda:0", threads=1).device.provider == "CUDAExecutionProvider"


def test_memory_that_is_taken_is_measured() -> None:
    before = machine.host_memory_bytes()
    taken = np.ones(50_000_000, np.uint8)
    grown = machine.host_memory_bytes() - before
    assert 49e6 < grown < 60e6
    del taken
    assert machine.host_memory_bytes() - before < 10e6


def test_a_session_has_the_threads_that_it_was_given(exported) -> None:
    path = exported["lenet5-digits"].folder / "model.onnx"
    session = device.open_session(path, device.Device("cpu", None, threads=3))
    assert session.get_session_options().intra_op_num_threads == 3
