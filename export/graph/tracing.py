"""From a PyTorch network to one self-contained ONNX file.

`ServedNetwork` wraps the catalog's network in what every artifact has around it (layout, normalisation,
softmax); `train` trains it in that wrapping, `to_onnx` writes it.
"""

from pathlib import Path

import onnx
import torch
from torch import nn

from artifact import layout
from artifact.errors import first_line
from export.errors import ExportError
from export.graph import cleaning
from zoo.spec import InputSpec

OPSET = 20  # ONNX Runtime 1.31 reads up to 26, the exporter's operators are written for 18 to 20
INPUT, OUTPUT, BATCH_AXIS = layout.INPUT, layout.OUTPUT, "N"

# What has weights and does the work; everything before the first of these is normalisation.
LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_MAX_EXPORT_BATCH = 4096  # the exporter wants a bound; the graph does not hold it


class GraphError(ExportError):
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
        """Return logits ``[N, K]`` for uint8 images ``[N, H, W, C]``."""
        pixels = images.permute(0, 3, 1, 2).float()  # [N, C, H, W]
        logits: torch.Tensor = self.network(pixels * self.scale + self.shift)  # [N, K]
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities, float32 ``[N, K]``, for uint8 images ``[N, H, W, C]``."""
        return torch.softmax(self.logits(images), dim=1)


def to_onnx(served: ServedNetwork, path: Path) -> None:
    """Write a network, in evaluation mode, as one ONNX file with a free batch size.

    The file holds its weights, and neither stack traces nor paths of the machine that wrote it.

    Raises:
        GraphError: torch cannot export the network, the graph does not take the images of the
            specification or give the network's number of labels, or it holds what `cleaning.faults` names.
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
        raise GraphError(f"torch cannot export the network: {first_line(cause)}") from error
    if program is None:
        raise GraphError("the exporter wrote nothing")
    with torch.no_grad():
        label_count = served(example).shape[1]
    model = program.model_proto
    for value in program.model.graph.initializers.values():
        value.const_value = None  # the exporter remembers its last graph, and would keep the weights with it
    cleaning.clean(model)
    if faults := cleaning.faults(model.graph):
        raise GraphError(f"the graph is not an artifact's: {'; '.join(faults)}")
    check_signature(model, (spec.height, spec.width, spec.channels), label_count)
    content = model.SerializeToString()
    # Each holds all weights, and the checker makes two more copies: with VGG-19, 0.6 GB each.
    del program, model
    check(content)
    path.write_bytes(content)


def check(content: bytes) -> None:
    """Insist that a serialised graph is valid ONNX, every shape of it.

    Raises:
        GraphError: it is not.
    """
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the graph is not valid ONNX: {first_line(error)}") from error


def check_signature(
    model: onnx.ModelProto, image_shape: tuple[int, int, int] | None = None, label_count: int | None = None
) -> None:
    """Insist that a graph takes images and gives probabilities as an artifact's does.

    Args:
        image_shape: height, width and channels that it must take; whatever is fixed when None.
        label_count: that it must answer for; whatever is fixed when None.

    Raises:
        GraphError: it has another signature.
    """
    signature = [
        (
            value.name,
            onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    ]
    fixed = [[side for side in sides[1:] if isinstance(side, int) and side > 0] for _, _, sides in signature]
    shapes = [*fixed, [], []]
    wanted = [
        (INPUT, "UINT8", [BATCH_AXIS, *(image_shape or shapes[0])]),
        (OUTPUT, "FLOAT", [BATCH_AXIS, *([label_count] if label_count else shapes[1])]),
    ]
    if signature != wanted or [len(sides) for _, _, sides in signature] != [4, 2]:
        raise GraphError(f"the graph's signature is {signature}, not {wanted}")
