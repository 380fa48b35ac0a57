"""A version is there whole or not at all, whoever else publishes and whoever is killed."""

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifact import layout, manifest, publish
from artifact.errors import ArtifactError, DamagedFileError, ManifestError
from modelzoo.v1 import manifest_pb2

Fill = Callable[[Path], manifest_pb2.Manifest]


def publish_one(repository: Path, fill: Fill) -> Path:
    with publish.staging(repository, "net-pets") as folder:
        return publish.publish(folder, fill(folder))


def names(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / "net-pets").iterdir())


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_published_version_is_whole(tmp_path: Path, fill_folder: Fill) -> None:
    published = publish_one(tmp_path, fill_folder)
    assert published == tmp_path / "net-pets" / "1"
    assert names(tmp_path) == ["1"]
    assert set(hashes(published)) == {
        "manifest.json", "model.onnx", "labels.txt", "golden.npz", "card/README.md",
    }  # fmt: skip
    described = manifest.read(published)
    assert described.version == 1
    manifest.check_files(described, published)


def test_versions_count_up_and_older_ones_stay_as_they_were(tmp_path: Path, fill_folder: Fill) -> None:
    first = publish_one(tmp_path, fill_folder)
    before = hashes(first)
    assert [publish_one(tmp_path, fill_folder).name for _ in range(2)] == ["2", "3"]
    assert hashes(first) == before
    assert [manifest.read(tmp_path / "net-pets" / name).version for name in names(tmp_path)] == [1, 2, 3]


def test_numbers_go_on_after_the_highest(tmp_path: Path, fill_folder: Fill) -> None:
    (tmp_path / "net-pets" / "41").mkdir(parents=True)
    description = manifest_pb2.Manifest()
    with publish.staging(tmp_path, "net-pets") as folder:
        description.CopyFrom(fill_folder(folder))
        publish.publish(folder, description)
    assert description.version == 42
    assert names(tmp_path) == ["41", "42"]


def test_nothing_appears_when_the_body_raises(tmp_path: Path, fill_folder: Fill) -> None:
    def interrupted() -> None:
        with publish.staging(tmp_path, "net-pets") as folder:
            fill_folder(folder)
            assert list(layout.newest(tmp_path)) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_nothing_appears_that_was_not_published(tmp_path: Path, fill_folder: Fill) -> None:
    with publish.staging(tmp_path, "net-pets") as folder:
        fill_folder(folder)
        assert folder.parent == tmp_path / "net-pets"
        assert folder.name.startswith(".")  # for shells and readers to pass over
    assert names(tmp_path) == []


def test_an_invalid_manifest_is_not_published(tmp_path: Path, fill_folder: Fill) -> None:
    def invalid(folder: Path) -> manifest_pb2.Manifest:
        described = fill_folder(folder)
        described.label_count = 0
        return described

    with pytest.raises(ManifestError, match="label_count"):
        publish_one(tmp_path, invalid)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "labels.txt"])
def test_an_artifact_that_lacks_a_file_is_not_published(tmp_path: Path, fill_folder: Fill, name: str) -> None:
    def lacking(folder: Path) -> manifest_pb2.Manifest:
        described = fill_folder(folder)
        (folder / name).unlink()
        return described

    with pytest.raises(DamagedFileError, match=name):
        publish_one(tmp_path, lacking)
    assert names(tmp_path) == []


def test_a_manifest_of_another_model_is_not_published(tmp_path: Path, fill_folder: Fill) -> None:
    def misnamed(folder: Path) -> manifest_pb2.Manifest:
        described = fill_folder(folder)
        described.name = "net-birds"
        return described

    with pytest.raises(ArtifactError, match="net-birds"):
        publish_one(tmp_path, misnamed)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "Net", ".staging"])
def test_a_strange_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="is not a model's name"), publish.staging(tmp_path / "in", name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_published(tmp_path: Path, fill_folder: Fill) -> None:
    with publish.staging(tmp_path, "net-pets") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        published = publish.publish(folder, fill_folder(folder))
    assert stat.S_IMODE(published.stat().st_mode) == 0o755


def test_threads_that_publish_at_once_get_versions_of_their_own(tmp_path: Path, fill_folder: Fill) -> None:
    count = 8
    together = threading.Barrier(count)

    def run() -> str:
        with publish.staging(tmp_path, "net-pets") as folder:
            described = fill_folder(folder)
            together.wait()
            return publish.publish(folder, described).name

    with ThreadPoolExecutor(count) as pool:
        published = [future.result() for future in [pool.submit(run) for _ in range(count)]]
    assert sorted(published) == names(tmp_path) == sorted(str(number) for number in range(1, count + 1))
    for name in published:
        assert manifest.read(tmp_path / "net-pets" / name).version == int(name)


# Publishes copies of a folder; says when it is ready, and goes on when it is told to.
PUBLISHER = """
import shutil, sys
from pathlib import Path
from artifact import manifest, publish

repository, source, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
described = manifest.read(source)
for number in range(count):
    with publish.staging(repository, described.name) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        if number == 0:
            print("staged", flush=True)
            sys.stdin.readline()
        print(publish.publish(folder, described).name, flush=True)
"""


def start_publisher(repository: Path, source: Path, count: int) -> "subprocess.Popen[str]":
    """Start a process that publishes; it waits with a filled staging folder."""
    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(repository), str(source), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert publisher.stdout is not None
    assert publisher.stdout.readline() == "staged\n"
    return publisher


def test_processes_that_publish_at_once_get_versions_of_their_own(tmp_path: Path, folder: Path) -> None:
    publishers = [start_publisher(tmp_path, folder, 10) for _ in range(3)]
    published = []
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
    for publisher in publishers:
        output, _ = publisher.communicate()
        assert publisher.returncode == 0
        published += output.split()
    assert sorted(published, key=int) == [str(number) for number in range(1, 31)]
    assert layout.versions(tmp_path / "net-pets") == list(range(1, 31))


def test_a_killed_publisher_leaves_nothing_that_anybody_sees(
    tmp_path: Path, folder: Path, fill_folder: Fill
) -> None:
    with start_publisher(tmp_path, folder, 1) as publisher:
        publisher.kill()
    (left,) = names(tmp_path)
    assert "model.onnx" in hashes(tmp_path / "net-pets" / left)  # it died with everything written
    assert layout.versions(tmp_path / "net-pets") == []
    assert [entry.name for entry in layout.newest(tmp_path)] == []
    published = publish_one(tmp_path, fill_folder)
    assert published.name == "1"
    manifest.check_files(manifest.read(published), published)


def test_the_next_publisher_removes_what_a_killed_one_left_and_nothing_of_a_living_one(
    tmp_path: Path, folder: Path, fill_folder: Fill
) -> None:
    with start_publisher(tmp_path, folder, 1) as killed:
        (left,) = names(tmp_path)
        with start_publisher(tmp_path, folder, 1) as living:
            (staged,) = set(names(tmp_path)) - {left}
            killed.kill()
            killed.wait()
            assert names(tmp_path) == sorted([left, staged])  # it died with no time to tidy up
            before = hashes(tmp_path / "net-pets" / staged)
            assert publish_one(tmp_path, fill_folder).name == "1"
            assert names(tmp_path) == [staged, "1"]
            assert hashes(tmp_path / "net-pets" / staged) == before
            assert living.communicate("go\n") == ("2\n", None)
    assert names(tmp_path) == ["1", "2"]
    published = tmp_path / "net-pets" / "2"
    manifest.check_files(manifest.read(published), published)


def test_one_process_may_fill_several_folders_of_a_model_at_once(tmp_path: Path, fill_folder: Fill) -> None:
    with publish.staging(tmp_path, "net-pets") as first, publish.staging(tmp_path, "net-pets") as second:
        described = fill_folder(first)
        assert publish.publish(second, fill_folder(second)).name == "1"
        assert publish.publish(first, described).name == "2"
    assert names(tmp_path) == ["1", "2"]


def test_only_folders_are_swept_and_no_link_is_followed(tmp_path: Path, fill_folder: Fill) -> None:
    precious, model_folder = tmp_path / "precious", tmp_path / "net-pets"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    model_folder.mkdir()
    (model_folder / ".staging-link").symlink_to(precious)
    (model_folder / ".staging-file").write_text("")
    os.mkfifo(model_folder / ".staging-pipe")
    (model_folder / ".hidden").mkdir()
    (model_folder / ".staging-left").mkdir()
    assert publish_one(tmp_path, fill_folder).name == "1"
    assert names(tmp_path) == [".hidden", ".staging-file", ".staging-link", ".staging-pipe", "1"]
    assert (precious / "thesis.txt").read_text() == "years"
