"""From a PyTorch network to one self-contained ONNX file.

`ServedNetwork` wraps the catalog's network in what every artifact has around it (layout, normalisation,
softmax); `train` trains it in that wrapping, `to_onnx` writes it.
"""

from collections import Counter
from pathlib import Path

import onnx
import torch
from torch import nn

from zoo.spec import InputSpec

OPSET = 20  # ONNX Runtime 1.31 reads up to 26, the exporter's operators are written for 18 to 20
INPUT, OUTPUT, BATCH_AXIS = "images", "probabilities", "N"

# Shape arithmetic and control flow: a CUDA graph cannot capture a network that holds any of these.
FORBIDDEN_OPERATORS = frozenset(
    (
        "ConstantOfShape",
        "Expand",
        "Gather",
        "GatherND",
        "If",
        "Loop",
        "NonZero",
        "Range",
        "Scan",
        "Shape",
        "Size",
    )
)
_MAX_EXPORT_BATCH = 4096  # the exporter wants a bound; the graph does not hold it


class GraphError(Exception):
    """The exported graph is not what an artifact may hold; the message says what is wrong."""


class ServedNetwork(nn.Module):
    """A network in the wrapping that it is trained, exported and served in.

    Args:
        network: normalised float32 ``[N, C, H, W]`` to logits ``[N, K]``.
        input_spec: gives the mean and standard deviation of each channel, on the 0..1 scale.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, input_spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.input_spec = input_spec
        mean, std = torch.tensor(input_spec.mean), torch.tensor(input_spec.std)
        # (x / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).reshape(1, -1, 1, 1), persistent=False)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Give logits ``[N, K]`` for uint8 images ``[N, H, W, C]``."""
        pixels = images.permute(0, 3, 1, 2).float()  # [N, C, H, W]
        logits: torch.Tensor = self.network(pixels * self.scale + self.shift)  # [N, K]
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give probabilities, float32 ``[N, K]``, for uint8 images ``[N, H, W, C]``."""
        return torch.softmax(self.logits(images), dim=1)


def to_onnx(served: ServedNetwork, path: Path) -> None:
    """Write a network, in evaluation mode, as one ONNX file with a free batch size.

    The file holds its weights, and neither stack traces nor paths of the machine that wrote it.

    Raises:
        GraphError: torch cannot export the network, the graph has another signature than an artifact's,
            or an operator of `FORBIDDEN_OPERATORS` is left.
    """
    spec = served.input_spec
    # Two images, because a batch of one would be taken for a constant.
    example = torch.zeros((2, spec.height, spec.width, spec.channels), dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            served.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS, min=1, max=_MAX_EXPORT_BATCH)},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:  # its own message is a page of advice
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise GraphError(f"torch cannot export the network: {reason}") from error
    if program is None:
        raise GraphError("the exporter wrote nothing")
    model = program.model_proto
    strip(model)
    _check(model)
    path.write_bytes(model.SerializeToString())


def operators(path: Path) -> Counter[str]:
    """Count the operators of an ONNX file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, source paths and names of the exporting machine."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    counts = Counter(node.op_type for node in model.graph.node)
    if left := sorted(FORBIDDEN_OPERATORS & counts.keys()):
        raise GraphError(f"shape arithmetic or control flow is left in the graph: {', '.join(left)}")
    signature = [
        (value.name, value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim[0].dim_param)
        for value in (*model.graph.input, *model.graph.output)
    ]
    wanted = [
        (INPUT, onnx.TensorProto.UINT8, BATCH_AXIS),
        (OUTPUT, onnx.TensorProto.FLOAT, BATCH_AXIS),
    ]
    if signature != wanted:
        raise GraphError(f"the graph's signature is {signature}, not {wanted}")
