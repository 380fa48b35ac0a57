"""The settings of a server: flags, before environment, before a TOML file, before the defaults.

The only place in `server` that reads settings from the environment.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from artifact import files
from artifact.execution import core_count
from server.errors import StartError

Port = Annotated[int, Field(ge=0, le=65535)]  # 0: whatever is free
BatchSize = Annotated[int, Field(ge=1, le=1024)]
Precision = Literal["fp32", "fp16", "int8"]
_PREFIX = "MODELZOO_"
_DEVICE = r"^(auto|cpu|cuda:\d{1,2})$"


class Settings(BaseModel):
    """The settings of a server; every field is also an environment variable ``MODELZOO_<NAME>``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: Path = Path("models")
    """Folder of the models."""
    host: str = "127.0.0.1"
    """Address that both ports listen on; 0.0.0.0 or :: for every interface, of a name one address."""
    grpc_port: Port = 8001
    """Port of the gRPC services."""
    metrics_port: Port = 8002
    """Port of the Prometheus metrics, under /metrics."""
    device: Annotated[str, StringConstraints(pattern=_DEVICE)] = "auto"
    """auto, cpu or cuda:<n>; auto takes cuda:0 where it works, else the CPU."""
    precision: Literal["auto", Precision] = "auto"
    """auto takes fp16 on CUDA where it is published, else fp32; int8 is taken only where it is asked for."""
    model_precisions: dict[str, Precision] = {}
    """Precisions of single models, by name."""
    log_format: Literal["text", "json"] = "text"
    """Form of the log's lines."""

    transport: Literal["grpc", "h2corn"] = "grpc"
    """Server of HTTP/2 that calls come through; h2corn is faster and takes less, see docs/transports.md."""
    frontends: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that speak gRPC, decode and rank beside the one that runs the networks; 0 has that do all."""
    frontend_exit: Literal["restart", "stop"] = "restart"
    """What follows when such a process ends unasked: another in its place, or the end of the server."""
    frontend_memory_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 36, multiple_of=4096)] = 256 << 20
    """Memory that each of them shares with the engine, for pixels that wait; it is taken as it is used."""

    allow_client_shm: bool = False
    """Whether clients on this machine may pass tensors in shared memory, in any that this server may open."""
    allow_model_control: bool = False
    """Whether clients may load and unload models."""
    status_compat: Literal["none", "triton"] = "none"
    """triton tells clients of the Open Inference Protocol UNAVAILABLE where a queue is full."""

    max_batch_size: BatchSize = 32
    """Images that run together, at the most; fewer where more bring no more images per second."""
    model_batch_sizes: dict[str, Annotated[list[BatchSize], Field(min_length=1)]] = {}
    """Allowed batch sizes of single models, by name, instead of the powers of two up to max_batch_size."""
    max_queue_delay_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Time that an image waits for others to fill its batch, while the device is free."""
    max_loop_s: Annotated[float, Field(ge=0, le=0.1)] = 0.0005
    """Time for which the event loop may run a batch of a tiny network itself, on the CPU; 0 for never."""
    max_queue_size: Annotated[int, Field(ge=1)] = 1024
    """Images that may wait for one model, of each priority; a quarter more of peers that have few there."""
    max_images_per_request: Annotated[int, Field(ge=1)] = 256
    """Images in one request."""
    max_message_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 64 << 20
    """Size of one request."""
    max_image_pixels: Annotated[int, Field(ge=1, le=178_000_000)] = 40_000_000
    """Width times height of one picture."""
    max_request_pixels: Annotated[int, Field(ge=1)] = 160_000_000
    """Pixels of all pictures of one request, as their headers say, or after resizing where these are more."""
    max_decoding_pixels: Annotated[int, Field(ge=1)] = 640_000_000
    """Pixels that may wait for a decoder before more are refused."""
    max_bytes_in_flight: Annotated[int, Field(ge=1)] = 512 << 20
    """Size of all messages together: those that come, are answered, or wait to be read by their clients."""
    max_bytes_per_connection: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda given: max(given["max_message_bytes"], given["max_bytes_in_flight"] // 2)
    )
    """The same of one connection."""
    max_concurrent_calls: Annotated[int, Field(ge=1)] = 8192
    """Open calls, but for health checks; beyond, one that waits for its client ends for each that comes."""
    max_calls_per_connection: Annotated[int, Field(ge=1)] = 1024
    """The same of one connection; beyond, calls are rejected."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Connections to the gRPC port; from three quarters of them on, idle ones are closed."""
    max_idle_s: Annotated[float, Field(gt=0)] = 300.0
    """Time that a call may wait for its peer: to send a whole message, or to read an answer."""
    max_connection_age_s: Annotated[float, Field(ge=1)] = 3600.0
    """Age at which a connection is asked to go; clients open another by themselves."""
    max_connection_age_grace_s: Annotated[float, Field(ge=0)] = 300.0
    """Time that its calls have to end then."""
    accept_compressed: bool = False
    """Whether messages may be compressed: then of 4 MiB at most, and fewer calls may be open."""
    decoder_threads: Annotated[int, Field(ge=1)] = Field(default_factory=core_count)
    """Pictures that are decoded at the same time."""
    lanes: Annotated[int, Field(ge=1)] = Field(default_factory=lambda: min(2, core_count()))
    """Batches that run at the same time on the CPU; a CUDA device always has one lane."""
    intra_op_threads: Annotated[int, Field(ge=1)] = Field(default_factory=core_count)
    """Threads of a model on the CPU, which its batches share; a tiny network has one."""
    heartbeat_timeout_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    """Time without a sign of life after which the engine, a front end or an event loop counts as hung."""
    batch_timeout_s: Annotated[float, Field(ge=0.1, le=86400)] = 30.0
    """Time after which a batch counts as hung, or 20 times its predicted time where that is longer."""
    load_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """Time that reading a model, and then opening and proving it, may take; then it is FAILED."""
    max_model_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 4 << 30
    """Memory that the weights and the largest batch of a model may take, as its graph states."""
    grace_s: Annotated[float, Field(ge=0)] = 20.0
    """Time that accepted requests have to end when the server is stopped."""

    @property
    def diverts_stderr(self) -> bool:
        """Whether what native libraries write to standard error becomes lines of the log."""
        return self.log_format == "json" or self.transport == "h2corn"

    @model_validator(mode="after")
    def _a_request_must_fit(self) -> Self:
        for small, large in (
            ("max_images_per_request", "max_queue_size"),
            ("max_image_pixels", "max_request_pixels"),
            ("max_request_pixels", "max_decoding_pixels"),
            ("max_message_bytes", "max_bytes_in_flight"),
            ("max_message_bytes", "max_bytes_per_connection"),
            ("max_bytes_per_connection", "max_bytes_in_flight"),
            ("max_calls_per_connection", "max_concurrent_calls"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise ValueError(f"{small} is larger than {large}")
        return self

    @model_validator(mode="after")
    def _regions_belong_to_one_process(self) -> Self:
        # A client registers a region with whichever process has its connection, and may have several.
        if self.frontends and self.allow_client_shm:
            raise ValueError("allow_client_shm works only with frontends = 0")
        return self


def load(flags: dict[str, Any], config: Path | None = None) -> Settings:
    """Put the settings together.

    Args:
        flags: of the command line, by field name; None where one was not given.
        config: a TOML file with keys named like the fields.

    Raises:
        StartError: the file cannot be read, or a value is unknown or not allowed.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        beneath = tomllib.loads(config.read_text("utf-8")) if config else {}
    except PermissionError as error:
        raise StartError(f"settings file: {files.denied(Path(error.filename), files.READ_FILE)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartError(f"settings file {config} cannot be read: {error}") from error
    try:
        return Settings(**(beneath | _environment() | given))  # whole values: tables are not merged
    except ValidationError as error:
        raise StartError(f"settings: {_first_problem(error)}") from error


def _environment() -> dict[str, Any]:
    """Return what the environment sets; tables are JSON there.

    Raises:
        StartError: one is not.
    """
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        text = os.environ.get(_PREFIX + name.upper())
        if text is None:
            continue
        try:
            found[name] = json.loads(text) if isinstance(field.default, dict) else text
        except ValueError as error:
            raise StartError(f"settings: {_PREFIX}{name.upper()} is not JSON: {error}") from error
    return found


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    message = re.sub(r"^Value error, ", "", problem["msg"])
    return ": ".join((*(str(part) for part in problem["loc"]), message))
