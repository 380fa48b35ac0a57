"""Cores are those that the process may use, and that its container lets it keep busy."""

import os
from pathlib import Path

import pytest

from artifact import execution


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
    ],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert execution.cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000", 1), ("100000", 1), ("190000", 1), ("100000000", None)]
)
def test_cores_are_cut_by_the_containers_quota(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert execution.core_count(tmp_path) == (cores or len(os.sched_getaffinity(0)))
    assert len(os.sched_getaffinity(0)) >= execution.core_count() >= 1


def test_cores_are_those_that_the_process_may_use() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert execution.core_count() == 1
    finally:
        os.sched_setaffinity(0, cores)
    assert execution.core_count() <= len(cores)


@pytest.mark.parametrize(("macs", "threads"), [(0, 4), (999_999, 1), (1_000_000, 4)])
def test_a_tiny_network_is_not_split_over_threads(macs: float, threads: int) -> None:
    assert execution.threads(macs, cores=4) == threads
