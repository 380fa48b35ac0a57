"""Settings: flags before environment before file before defaults, and one line for what is wrong."""

import os
from pathlib import Path
from typing import get_args

import pytest

from artifact import execution, layout
from server import config
from server.errors import StartError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.Settings.model_fields:
        monkeypatch.delenv(f"MODELZOO_{name.upper()}", raising=False)


def test_flags_come_before_environment_before_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "modelzoo.toml"
    file.write_text('grpc_port = 1\nmetrics_port = 2\nmax_batch_size = 3\nlog_format = "json"\n')
    monkeypatch.setenv("MODELZOO_GRPC_PORT", "10")
    monkeypatch.setenv("MODELZOO_METRICS_PORT", "20")
    settings = config.load({"grpc_port": 100, "device": None}, file)
    assert (settings.grpc_port, settings.metrics_port, settings.max_batch_size) == (100, 20, 3)
    assert (settings.log_format, settings.device, settings.max_queue_size) == ("json", "auto", 1024)


def test_a_table_comes_whole_from_the_first_source_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "modelzoo.toml"
    file.write_text('[model_precisions]\na = "int8"\n[model_batch_sizes]\na = [1]\n')
    monkeypatch.setenv("MODELZOO_MODEL_PRECISIONS", '{"b": "fp16"}')
    settings = config.load({}, file)
    assert (settings.model_precisions, settings.model_batch_sizes) == ({"b": "fp16"}, {"a": [1]})


def test_two_lanes_share_the_cores_where_there_are_two() -> None:
    cores = execution.core_count()
    settings = config.load({})
    assert (settings.lanes, settings.intra_op_threads) == (min(2, cores), cores)


def test_a_single_core_has_one_lane() -> None:
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        settings = config.load({})
    finally:
        os.sched_setaffinity(0, usable)
    assert (settings.lanes, settings.intra_op_threads, settings.decoder_threads) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("grpc_port = 70000", "settings: grpc_port: Input should be less than or equal to 65535"),
        ("colour = 1", "settings: colour: Extra inputs are not permitted"),
        ('device = "cuda"', "settings: device: "),
        ('log_format = "xml"', "settings: log_format: Input should be 'text' or 'json'"),
        ("max_batch_size = 0", "settings: max_batch_size: "),
        ("max_images_per_request = 2000", "max_images_per_request is larger than max_queue_size"),
        ("model_batch_sizes = {a = [8, 0]}", "settings: model_batch_sizes: a: 1: "),
        ("model_batch_sizes = {a = [2000]}", "settings: model_batch_sizes: a: 0: "),
        ("model_batch_sizes = {a = []}", "settings: model_batch_sizes: a: List should have at least 1 item"),
        ("max_queue_delay_s = -1", "settings: max_queue_delay_s: "),
        ("max_queue_delay_s = inf", "settings: max_queue_delay_s: "),
        ("max_image_pixels = 170000000", "max_image_pixels is larger than max_request_pixels"),
        ("max_image_pixels = 200000000", "settings: max_image_pixels: "),
        ("frontends = 1\nallow_client_shm = true", "allow_client_shm works only with frontends = 0"),
        ("frontends = 65", "settings: frontends: "),
        ("max_bytes_in_flight = 70000", "max_message_bytes is larger than max_bytes_in_flight"),
        ("grpc_port = ", "cannot be read"),
    ],
)
def test_a_setting_that_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "modelzoo.toml"
    file.write_text(text)
    with pytest.raises(StartError) as caught:
        config.load({}, file)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"nowhere\.toml cannot be read"):
        config.load({}, tmp_path / "nowhere.toml")


def test_settings_that_only_fit_together_may_come_from_two_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "modelzoo.toml"
    file.write_text("max_queue_size = 4000\n")
    monkeypatch.setenv("MODELZOO_MAX_IMAGES_PER_REQUEST", "3000")
    assert config.load({}, file).max_images_per_request == 3000


def test_batch_sizes_of_a_model_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELZOO_MODEL_BATCH_SIZES", '{"lenet5-digits": [8, 1]}')
    assert config.load({}).model_batch_sizes == {"lenet5-digits": [8, 1]}


def test_a_table_that_is_not_json_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELZOO_MODEL_PRECISIONS", "lenet5-digits=int8")
    with pytest.raises(StartError, match="settings: MODELZOO_MODEL_PRECISIONS is not JSON: Expecting value"):
        config.load({})


def test_the_precisions_that_can_be_asked_for_are_those_that_artifacts_have() -> None:
    assert get_args(config.Precision) == tuple(layout.MODEL_FILES)
