"""Asks a server everything that tritonclient can ask, and prints what it said as JSON.

Runs in an environment of tritonclient's own: it needs another protobuf than our server does, and defines
the protocol's package a second time. Usage: python ask.py ADDRESS ARRAYS.npz
"""

import json
import queue
import sys
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, shared_memory

MODEL = "lenet5-digits"
ADDRESS, ARRAYS = sys.argv[1:]
arrays = np.load(ARRAYS, allow_pickle=False)
images = arrays["images"]  # uint8 [N, 32, 32, 1]
files = [arrays[f"file{number}"].tobytes() for number in range(3)]
client = triton.InferenceServerClient(ADDRESS)


def pixels() -> list[triton.InferInput]:
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    return [given]


def pictures(*shape: int) -> list[triton.InferInput]:
    given = triton.InferInput("images", list(shape), "BYTES")
    given.set_data_from_numpy(np.array(files, np.object_).reshape(shape))
    return [given]


def output(**options: object) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput("probabilities", **options)]


def told(result: triton.InferResult) -> object:
    answer = result.as_numpy("probabilities")
    return [[text.decode() for text in row] for row in answer] if answer.dtype == object else answer.tolist()


def refusal(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return ["OK", ""]


def compressed() -> object:
    try:
        return told(client.infer(MODEL, pixels(), compression_algorithm="gzip"))
    except InferenceServerException as error:
        return [str(error.status()), error.message()]


def describe() -> dict[str, object]:
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready(MODEL),
        "version ready": client.is_model_ready(MODEL, "1"),
        "other version ready": client.is_model_ready(MODEL, "2"),
        "other model ready": client.is_model_ready("lenet6"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata(MODEL, as_json=True),
        "config": client.get_model_config(MODEL, as_json=True),
    }


def infer() -> dict[str, object]:
    results: queue.SimpleQueue[tuple[triton.InferResult | None, Exception | None]] = queue.SimpleQueue()
    client.async_infer(MODEL, pixels(), lambda result, error: results.put((result, error)), request_id="9")
    later, error = results.get(timeout=60)
    assert error is None, error
    plain = client.infer(MODEL, pixels(), request_id="7")
    best = client.infer(MODEL, pixels(), outputs=output(class_count=2))
    options = {"priority": 1, "timeout": 60_000_000, "sequence_id": 3, "parameters": {"colour": "green"}}
    return {
        "probabilities": told(plain),
        "response": plain.get_response(as_json=True),
        "by name": told(client.infer(MODEL, pixels(), "1", output())),
        "with options": told(client.infer(MODEL, pixels(), client_timeout=60, **options)),
        "compressed": compressed(),
        "later": told(later),
        "later id": later.get_response().id,
        "pictures": told(client.infer(MODEL, pictures(3))),
        "pictures in a column": told(client.infer(MODEL, pictures(3, 1))),
        "best": told(best),
    }


def stream() -> dict[str, object]:
    answers: queue.SimpleQueue[tuple[triton.InferResult | None, Exception | None]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    count = 20
    for number in range(count):
        client.async_stream_infer(MODEL, pixels(), request_id=str(number), enable_empty_final_response=True)
    got = {}
    for _ in range(count):
        result, error = answers.get(timeout=60)
        assert error is None, error
        got[result.get_response().id] = told(result)
    client.async_stream_infer("lenet6", pixels())
    _, refused = answers.get(timeout=60)
    client.async_stream_infer(MODEL, pixels(), request_id="after")
    result, _ = answers.get(timeout=60)
    client.stop_stream()

    client.start_stream(
        lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"}
    )
    client.async_stream_infer("lenet6", pixels())
    _, ending = answers.get(timeout=60)
    client.stop_stream()
    return {
        "ids": sorted(map(int, got)),
        "all the same": len({json.dumps(answer) for answer in got.values()}) == 1,
        "probabilities": got["0"],
        "refused": refused.message(),
        "after": result.get_response().id,
        "ending": [str(ending.status()), ending.message()],
    }


def share() -> dict[str, object]:
    size = len(images) * 10 * 4
    given = shared_memory.create_shared_memory_region("in", "/modelzoo-conformance-in", images.nbytes)
    taken = shared_memory.create_shared_memory_region("out", "/modelzoo-conformance-out", size)
    try:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        shared_memory.set_shared_memory_region(given, [images])
        client.register_system_shared_memory("in", "/modelzoo-conformance-in", images.nbytes)
        client.register_system_shared_memory("out", "/modelzoo-conformance-out", size)
        status = client.get_system_shared_memory_status(as_json=True)
        request = triton.InferInput("images", list(images.shape), "UINT8")
        request.set_shared_memory("in", images.nbytes)
        wanted = output()
        wanted[0].set_shared_memory("out", size)
        result = client.infer(MODEL, [request], outputs=wanted)
        answers = shared_memory.get_contents_as_numpy(taken, np.float32, [len(images), 10]).tolist()
        again = refusal(lambda: client.register_system_shared_memory("in", "/modelzoo-conformance-in", 1))
        client.unregister_system_shared_memory("in")
        gone = refusal(lambda: client.infer(MODEL, [request]))
        client.unregister_system_shared_memory()
        return {
            "status": status,
            "probabilities": answers,
            "outputs": result.get_response(as_json=True)["outputs"],
            "registered again": again,
            "gone": gone,
            "left": client.get_system_shared_memory_status(as_json=True),
            "cuda": client.get_cuda_shared_memory_status(as_json=True),
            "cuda register": refusal(lambda: client.register_cuda_shared_memory("c", b"\0" * 64, 0, 8)),
        }
    finally:
        shared_memory.destroy_shared_memory_region(given)
        shared_memory.destroy_shared_memory_region(taken)


def control() -> dict[str, object]:
    client.unload_model(MODEL)
    unloaded = {
        "ready": client.is_model_ready(MODEL),
        "index": client.get_model_repository_index(as_json=True),
        "infer": refusal(lambda: client.infer(MODEL, pixels())),
    }
    client.load_model(MODEL)
    return {
        "unloaded": unloaded,
        "index": client.get_model_repository_index(as_json=True),
        "probabilities": told(client.infer(MODEL, pixels())),
        "config refused": refusal(lambda: client.load_model(MODEL, config="{}")),
        "files refused": refusal(lambda: client.load_model(MODEL, config="{}", files={"file:1/m": b""})),
        "unknown": refusal(lambda: client.load_model("lenet6")),
    }


def refuse() -> dict[str, list[str]]:
    floats = triton.InferInput("images", list(images.shape), "FP32")
    floats.set_data_from_numpy(images.astype(np.float32))
    other = triton.InferInput("input", list(images.shape), "UINT8")
    other.set_data_from_numpy(images)
    return {
        "model": refusal(lambda: client.infer("lenet6", pixels())),
        "version": refusal(lambda: client.infer(MODEL, pixels(), "2")),
        "no number": refusal(lambda: client.infer(MODEL, pixels(), "latest")),
        "type": refusal(lambda: client.infer(MODEL, [floats])),
        "name": refusal(lambda: client.infer(MODEL, [other])),
        "output": refusal(lambda: client.infer(MODEL, pixels(), outputs=[triton.InferRequestedOutput("x")])),
        "traces": refusal(client.get_trace_settings),
        "logs": refusal(client.get_log_settings),
        "metadata": refusal(lambda: client.get_model_metadata("lenet6")),
        "late": refusal(lambda: client.infer(MODEL, pixels(), client_timeout=1e-6)),
    }


before = client.get_inference_statistics(MODEL, as_json=True)
report = {"describe": describe(), "infer": infer(), "stream": stream(), "share": share(), "refuse": refuse()}
report["statistics"] = [before, client.get_inference_statistics(MODEL, as_json=True)]
report["control"] = control()
client.close()
print(json.dumps(report))
