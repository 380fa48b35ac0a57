"""Artifacts that are made in milliseconds, without training: a linear layer over 4 x 4 pixels."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from artifact import golden, manifest
from artifact.golden import CPU_PROVIDER, Golden
from modelzoo.v1 import manifest_pb2

SIDE_PX, LABELS = 4, ("cat", "dog", "eel")
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIDE_PX, SIDE_PX, 1), np.uint8)
WEIGHTS = np.random.default_rng(1).normal(0, 0.1, (SIDE_PX * SIDE_PX, len(LABELS))).astype(np.float32)
BLANK = np.zeros((SIDE_PX, SIDE_PX, 1), np.uint8)

Nodes = Sequence[onnx.NodeProto]
Tensors = Sequence[onnx.TensorProto]


def graph(extra: Nodes = (), tensors: Tensors = (), **fields: object) -> onnx.ModelProto:
    """The layer, after nodes that may do anything; one that makes ``extra`` [1] is added to its input."""
    used = any("extra" in node.output for node in extra)
    nodes = [
        *extra,
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        *([helper.make_node("Add", ["cast", "extra"], ["pixels"])] if used else []),
        helper.make_node("Flatten", ["pixels" if used else "cast"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    body = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(WEIGHTS, "weights"), *tensors],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **fields)


def answers() -> np.ndarray:
    session = onnxruntime.InferenceSession(graph().SerializeToString(), providers=[CPU_PROVIDER])
    return session.run(None, {"images": IMAGES})[0]


def publish(repository: Path, name: str, version: int = 1, model: onnx.ModelProto | None = None) -> Path:
    """Publish a version, in one move as `artifact.publish` does; give its folder."""
    staging = repository / name / f".staging-{version}"
    staging.mkdir(parents=True)
    (staging / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (staging / "model.onnx").write_bytes((model or graph()).SerializeToString())
    golden.write(staging / "golden.npz", Golden(IMAGES, answers()))
    manifest.write(describe(staging, name, version), staging)
    return staging.rename(repository / name / str(version))


def describe(folder: Path, name: str, version: int) -> manifest_pb2.Manifest:
    return manifest_pb2.Manifest(
        name=name,
        version=version,
        architecture="linear",
        parameters=WEIGHTS.size,
        input=manifest_pb2.Input(height=SIDE_PX, width=SIDE_PX, channels=1, mean=[0], std=[1]),
        preprocessing=manifest_pb2.Preprocessing(
            resize_shorter_px=SIDE_PX, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
        ),
        labels=manifest.describe_file(folder / "labels.txt"),
        label_count=len(LABELS),
        weights=manifest_pb2.Weights(origin=manifest_pb2.ORIGIN_TRAINED, dataset="none"),
        macs=WEIGHTS.size,
        reference="NumPy",
        precisions=[
            manifest_pb2.Precision(
                name="fp32",
                file=manifest.describe_file(folder / "model.onnx"),
                tolerances=[manifest_pb2.Tolerance(provider=CPU_PROVIDER, max_abs_difference=1e-5)],
            )
        ],
        golden=manifest.describe_file(folder / "golden.npz"),
    )


def anew(folder: Path) -> None:
    """Describe what lies in a version's folder as what was published."""
    manifest.write(describe(folder, folder.parent.name, int(folder.name)), folder)


def damage(folder: Path) -> None:
    """Change a byte of the network."""
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)
