"""How a model's network is opened on a device, as fast as the device can run it, and closed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from artifact.errors import ArtifactError, first_line
from modelzoo.v1 import manifest_pb2
from server.errors import DeviceError
from server.runtime.cuda import CudaRuntime
from server.runtime.device import Device
from server.runtime.graphs import OnnxGraphs
from server.runtime.network import Network, OnnxNetwork
from server.runtime.pipelined import PipelinedNetwork


def open_network(
    path: Path, manifest: manifest_pb2.Manifest, device: Device, batch_sizes: Sequence[int]
) -> Network:
    """Open a file; an `OpenNetwork`.

    On a CUDA device its batches replay captured graphs, two on their way at a time. Where that cannot be had,
    the plain session that is opened instead says why (`OnnxNetwork.not_captured`).

    Raises:
        GoldenError: the graph's input or output is not what the manifest says.
        Exception: ONNX Runtime's own, when it cannot load the file.
    """
    if device.ordinal is None:
        return OnnxNetwork(path, manifest, device.suited(manifest.macs), batch_sizes)
    ordinal = device.ordinal

    def captured() -> Network:
        shape = (manifest.input.height, manifest.input.width, manifest.input.channels)
        cuda = CudaRuntime(ordinal)
        graphs = OnnxGraphs(path, manifest, device, cuda)
        return PipelinedNetwork(graphs, cuda, shape, manifest.label_count, batch_sizes)

    return captured_or_plain(captured, lambda: OnnxNetwork(path, manifest, device, batch_sizes))


def close_network(network: Network) -> None:
    """Return back at once what a network holds beside its session; to be called where it ran, and last."""
    if isinstance(network, PipelinedNetwork):
        with suppress(DeviceError):  # a device that fails takes back nothing
            network.close()


def captured_or_plain(captured: Callable[[], Network], plain: Callable[[], OnnxNetwork]) -> Network:
    """Open a network with captured graphs or, where they cannot be had, as a plain session that says why.

    Raises:
        GoldenError: the graph's input or output is not what the manifest says.
        Exception: ONNX Runtime's own, when it cannot load the file.
    """
    try:
        return captured()
    except ArtifactError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, a plain session may work
        network = plain()
        network.not_captured = first_line(error)
        return network
