"""Graphs are opened so that they answer alike on every CPU, quietly."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from artifact import execution
from export import session
from server.runtime import device


@pytest.fixture
def path(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["probabilities"], to=TensorProto.FLOAT)],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(("threads", "wanted"), [(None, execution.core_count()), (1, 1), (3, 3)])
def test_a_session_runs_on_the_cpu_with_the_threads_asked_for(
    path: Path, threads: int | None, wanted: int
) -> None:
    opened = session.on_cpu(path, threads)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    assert opened.get_session_options().intra_op_num_threads == wanted


def test_a_session_has_the_options_of_the_sessions_that_serve(path: Path) -> None:
    proved, served = session.on_cpu(path), device.open_session(path, device.Device("cpu", None, threads=1))
    for key, value in execution.SESSION_OPTIONS.items():
        assert proved.get_session_options().get_session_config_entry(key) == value
        assert served.get_session_options().get_session_config_entry(key) == value


def test_a_file_that_cannot_be_opened_is_raised_and_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match="Protobuf parsing failed"):
        session.on_cpu(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
