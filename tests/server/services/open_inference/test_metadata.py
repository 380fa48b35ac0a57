"""What the server tells of itself and of its models, in the protocol's words."""

import time

import grpc
import numpy as np
import pytest

from modelzoo.v1 import open_inference_pb2 as messages

MODEL, OTHER = "lenet5-digits", "simple_cnn-digits"


def test_what_is_live_and_ready_is_told(tensors) -> None:
    assert tensors.stub.ServerLive(messages.ServerLiveRequest()).live
    assert tensors.stub.ServerReady(messages.ServerReadyRequest()).ready
    for name, version, ready in (
        (MODEL, "", True),
        (MODEL, "1", True),
        (MODEL, "2", False),
        ("x", "", False),
    ):
        request = messages.ModelReadyRequest(name=name, version=version)
        assert tensors.stub.ModelReady(request).ready is ready


def test_a_server_without_a_model_is_live_and_not_ready(start_server, tensors_of, tmp_path) -> None:
    stub = tensors_of(start_server(repository=tmp_path)).stub
    assert stub.ServerLive(messages.ServerLiveRequest()).live
    assert not stub.ServerReady(messages.ServerReadyRequest()).ready
    assert stub.ModelStatistics(messages.ModelStatisticsRequest()) == messages.ModelStatisticsResponse()


def test_a_server_advertises_what_works_with_its_settings(start_server, tensors_of, tensors) -> None:
    told = tensors.stub.ServerMetadata(messages.ServerMetadataRequest())
    assert told.name == "modelzoo"
    assert told.version.split(".")[0].isdecimal()
    assert list(told.extensions) == [
        "classification",
        "model_configuration",
        "schedule_policy",
        "statistics",
    ]
    more = tensors_of(start_server(allow_client_shm=True, allow_model_control=True)).stub
    assert list(more.ServerMetadata(messages.ServerMetadataRequest()).extensions) == [
        *told.extensions,
        "system_shared_memory",
        "model_repository",
    ]


def test_metadata_and_config_describe_the_tensors(start_server, tensors_of) -> None:
    tensors = tensors_of(start_server(model_batch_sizes={MODEL: [32]}))  # whatever the machine measures
    told = tensors.stub.ModelMetadata(messages.ModelMetadataRequest(name=MODEL, version="1"))
    assert (told.name, list(told.versions), told.platform) == (MODEL, ["1"], "onnxruntime_onnx")
    [given], [gives] = told.inputs, told.outputs
    assert (given.name, given.datatype, list(given.shape)) == ("images", "UINT8", [-1, 32, 32, 1])
    assert (gives.name, gives.datatype, list(gives.shape)) == ("probabilities", "FP32", [-1, 10])

    config = tensors.stub.ModelConfig(messages.ModelConfigRequest(name=MODEL)).config
    assert (config.name, config.platform, config.backend) == (MODEL, told.platform, "onnxruntime")
    assert config.max_batch_size == 32
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.priority_levels == 2
    assert config.dynamic_batching.default_priority_level == 1
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024
    [given], [gives] = config.input, config.output
    assert (given.data_type, list(given.dims)) == (messages.TYPE_UINT8, [32, 32, 1])
    assert (gives.data_type, list(gives.dims)) == (messages.TYPE_FP32, [10])
    assert (gives.label_filename, config.default_model_filename) == ("labels.txt", "model.onnx")
    [group] = config.instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_CPU, [])


@pytest.mark.serves(MODEL, OTHER)
def test_statistics_count_the_requests_of_both_services(start_server, tensors_of, images: np.ndarray) -> None:
    running = start_server(model_batch_sizes={MODEL: [32]})  # whatever the machine measures
    tensors = tensors_of(running)
    for _ in range(2):
        tensors.stub.ModelInfer(tensors.pixels(images))  # three batches: 32, 32, 6
    with running.client() as client:
        client.classify(MODEL, [images[0]])
        taken = client.get_model(MODEL).status.host_memory_bytes
    with pytest.raises(grpc.RpcError):
        tensors.stub.ModelInfer(tensors.pixels(images[:, :31]))
    [told] = tensors.stub.ModelStatistics(messages.ModelStatisticsRequest(name=MODEL)).model_stats
    assert (told.name, told.version) == (MODEL, "1")
    assert (told.inference_count, told.execution_count) == (141, 7)
    assert abs(told.last_inference / 1000 - time.time()) < 60
    stats = told.inference_stats
    for total in (stats.success, stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output):
        assert total.count == 3
    for total in (stats.success, stats.queue, stats.compute_infer, stats.compute_output):
        assert total.ns > 0
    assert stats.compute_input.ns == 0  # pixels need no decoding
    assert stats.success.ns >= stats.compute_infer.ns
    assert stats.fail.count == 1
    batches = {batch.batch_size: batch.compute_infer for batch in told.batch_stats}
    assert {size: total.count for size, total in batches.items()} == {1: 1, 6: 2, 32: 4}
    assert all(total.ns > 0 for total in batches.values())
    assert [(memory.type, memory.byte_size) for memory in told.memory_usage] == [("CPU", taken)]
    everything = tensors.stub.ModelStatistics(messages.ModelStatisticsRequest()).model_stats
    assert [(one.name, one.inference_count) for one in everything] == [
        (MODEL, 141),
        (OTHER, 0),
    ]
