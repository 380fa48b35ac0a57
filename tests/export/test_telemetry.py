"""ONNX Runtime is told to send nothing home, before it starts."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("room", ["bench", "export", "server"])
def test_importing_a_room_that_runs_onnx_turns_telemetry_off(room: str) -> None:
    code = (
        f"import {room}, os, sys\n"
        "print(os.environ.get('ORT_DISABLE_TELEMETRY'), 'onnxruntime' in sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "False"]
