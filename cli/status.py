"""`modelzoo status`."""

import typer
from google.protobuf import json_format
from rich.table import Table

from cli.terminal.console import REFUSED, RefusedError, one_line, out, print_json, refusing
from client.client import Client
from client.errors import ClientError
from modelzoo.v1 import classifier_pb2


def run(address: str, *, ready: bool, as_json: bool) -> None:
    """Ask a server for its models, or only whether it serves."""
    with refusing(ValueError), Client(address) as client:  # what is no address
        try:
            if ready:
                raise typer.Exit(0 if client.is_serving() else REFUSED)
            models = client.list_models()
        except ClientError as error:
            raise RefusedError(error.describe(address)) from error
    if as_json:
        print_json(
            [
                json_format.MessageToDict(
                    model, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                for model in models
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "version", "state", "precision", "accuracy", "device"):
        table.add_column(column, no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    for model in models:
        memory_bytes = model.host_memory_bytes + model.device_memory_bytes
        table.add_row(
            one_line(model.name),
            str(model.version),
            _state(model),
            one_line(model.precision) or "-",
            _accuracy(model),
            one_line(model.device),
            f"{memory_bytes / 1e6:,.1f} MB" if memory_bytes else "-",
        )
    out.print(table)
    for model in models:
        if model.reason:
            out.print(f"{one_line(model.name)}: {one_line(model.reason)}", soft_wrap=True)


def _state(model: classifier_pb2.ModelStatus) -> str:
    if model.state not in classifier_pb2.ModelState.values():  # of a newer server
        return str(model.state)
    return classifier_pb2.ModelState.Name(model.state).removeprefix("MODEL_STATE_")


def _accuracy(model: classifier_pb2.ModelStatus) -> str:
    if model.state != classifier_pb2.MODEL_STATE_READY:
        return "-"
    return f"{model.accuracy_ratio:.2%}" if model.HasField("accuracy_ratio") else "not measured"
