"""The command line: names, options and their help; what they do lies in the file of each command.

Options read the environment too: `MODELZOO_ADDRESS`, `MODELZOO_REPOSITORY` and so on.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.bench import bench
from cli.terminal import preparation, streams
from cli.terminal.options import MODELS as _MODELS
from cli.terminal.options import (
    Absent,
    Address,
    AsJson,
    Cache,
    Calibration,
    Crop,
    Interpolation,
    Labels,
    Mean,
    Mirror,
    Precisions,
    Preprocessing,
    Repository,
    Resize,
    ScaledDecoding,
    Std,
    Strict,
    TopK,
    Ungated,
    Weights,
)

app = typer.Typer(
    name="modelzoo",
    help="Classic image classifiers, from a name to an answer: export them to ONNX, serve them over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ADDRESS = "127.0.0.1:8001"
_CACHE = Path("~/.cache/modelzoo")


@app.command("list")
def list_(repository: Repository = _MODELS, as_json: AsJson = False) -> None:
    """List the catalog: name, year, parameters, ImageNet weights, what is exported, paper."""
    from cli import catalog

    catalog.show(repository, as_json=as_json)


@app.command()
def export(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Architectures of the catalog; all.")],
    weights: Weights = "digits",
    labels: Labels = None,
    mirror: Mirror = None,
    preprocessing: Preprocessing = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    precision: Precisions = None,
    calibration: Calibration = None,
    ungated: Ungated = False,
    scaled_decoding: ScaledDecoding = False,
    absent: Absent = False,
    strict: Strict = False,
    background: preparation.Background = None,
    repository: Repository = _MODELS,
    name: Annotated[
        str | None, typer.Option(help="Name of the model.", show_default="<architecture>-<weights>")
    ] = None,
    cache: Cache = _CACHE,
) -> None:
    """Train architectures or load their weights, export them to ONNX, prove that nothing changed, publish.

    A training that was interrupted goes on after its last epoch.
    """
    from cli import export as command

    command.run(
        names,
        precision,
        (preprocessing, mean, std, resize, crop, interpolation),
        absent=absent,
        weights=weights,
        labels=labels,
        mirror=mirror,
        calibration=calibration,
        ungated=ungated,
        scaled_decoding=scaled_decoding,
        strict=strict,
        background=background,
        repository=repository,
        name=name,
        cache=cache,
    )


@app.command("import")
def import_(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An image classifier.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    labels: preparation.Labels = None,
    input_: preparation.Input = None,
    preset: preparation.Preset = None,
    resize: preparation.Resize = None,
    crop: preparation.Crop = None,
    resize_mode: preparation.ResizeMode = None,
    fill: preparation.Fill = None,
    interpolation: preparation.Interpolation = None,
    channels: preparation.Channels = None,
    scale: preparation.Scale = None,
    mean: preparation.Mean = None,
    std: preparation.Std = None,
    background: preparation.Background = None,
    output: preparation.Output = None,
    activation: preparation.Activation = "auto",
    precision: Precisions = None,
    calibration: Calibration = None,
    ungated: Ungated = False,
    scaled_decoding: ScaledDecoding = False,
    repository: Repository = _MODELS,
) -> None:
    """Wrap an ONNX classifier from elsewhere, prove that it answers the same, publish."""
    from cli import import_onnx as command

    command.run(
        model,
        precision,
        input_,
        mean,
        std,
        output,
        activation,
        labels,
        (preset, resize, crop, resize_mode, fill, interpolation, channels, scale, background),
        name=name,
        calibration=calibration,
        ungated=ungated,
        scaled_decoding=scaled_decoding,
        repository=repository,
    )


@app.command()
def card(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    repository: Repository = _MODELS,
) -> None:
    """Print a model's card: where it comes from, how good it is, where it errs; and its pictures' names."""
    from cli import card as command

    command.run(name, repository)


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Models; all where none is named.")
    ] = None,
    repository: Repository = _MODELS,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:<n>.", envvar="MODELZOO_DEVICE")] = "auto",
) -> None:
    """Check artifacts again: hashes, and the golden answers on this machine's device."""
    from cli import verify as command

    command.run(names or [], repository, device)


@app.command()
def serve(
    repository: Annotated[
        Path | None, typer.Option(help="Folder of the models.", show_default="models")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all.", show_default="127.0.0.1")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the gRPC services.", show_default="8001")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics.", show_default="8002")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda:<n>.", show_default="auto")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto, fp32, fp16 or int8; auto takes fp16 on CUDA where it is published, else fp32.",
            show_default="auto",
        ),
    ] = None,
    max_batch_size: Annotated[
        int | None, typer.Option(help="Images that run together.", show_default="32")
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="grpc or h2corn: what speaks HTTP/2.", show_default="grpc")
    ] = None,
    frontends: Annotated[
        int | None, typer.Option(help="Processes that speak gRPC beside the engine.", show_default="0")
    ] = None,
    allow_client_shm: Annotated[
        bool | None,
        typer.Option("--allow-client-shm", help="Let clients on this machine pass tensors in shared memory."),
    ] = None,
    accept_compressed: Annotated[
        bool | None,
        typer.Option("--accept-compressed", help="Accept compressed messages; the limits are then lower."),
    ] = None,
    status_compat: Annotated[
        str | None,
        typer.Option(help="none or triton: a full queue is then UNAVAILABLE.", show_default="none"),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.", show_default="text")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with these and further settings.", envvar="MODELZOO_CONFIG"),
    ] = None,
) -> None:
    """Serve the models of a repository over gRPC until SIGTERM.

    Every setting is also an environment variable, MODELZOO_GRPC_PORT say, and a TOML key, grpc_port.
    """
    from cli import serve as command

    command.run(
        {
            "repository": repository,
            "host": host,
            "grpc_port": grpc_port,
            "metrics_port": metrics_port,
            "device": device,
            "precision": precision,
            "max_batch_size": max_batch_size,
            "transport": transport,
            "frontends": frontends,
            "allow_client_shm": allow_client_shm,
            "accept_compressed": accept_compressed,
            "status_compat": status_compat,
            "log_format": log_format,
        },
        config,
    )


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP files.")],
    model: Annotated[str, typer.Option(help="Name of the model.", envvar="MODELZOO_MODEL")],
    address: Address = _ADDRESS,
    top_k: TopK = None,
    as_json: AsJson = False,
) -> None:
    """Ask a server what pictures show."""
    from cli import classify as command

    command.run(images, model, address, top_k, as_json=as_json)


@app.command()
def status(
    address: Address = _ADDRESS,
    ready: Annotated[
        bool, typer.Option("--ready", help="Print nothing; exit 0 if the server serves, else 1.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a running server holds: models, versions, states, memory."""
    from cli import status as command

    command.run(address, ready=ready, as_json=as_json)


app.command()(bench)


def main() -> None:
    """Run the command line."""
    streams.install()
    for name in ("COLUMNS", "TERMINAL_WIDTH"):  # Rich and Typer read them; 0 columns would show nothing
        width = os.environ.get(name, "")
        if not (width.isdecimal() and int(width) > 0):
            os.environ.pop(name, None)
    # gRPC's core writes to standard error what it makes of an address, and what peers send it, raw.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


if __name__ == "__main__":
    main()
