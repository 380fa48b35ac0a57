"""The rules of the house that a machine can check: arrows, stubs, sizes."""

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("artifact", "bench", "cli", "client", "export", "server", "zoo")

# Who may import whom; every room may open `modelzoo`, the contracts.
ARROWS = {
    "artifact": set(),
    "bench": {"artifact", "client", "server"},
    "cli": {"artifact", "bench", "client", "export", "server", "zoo"},
    "client": set(),
    "export": {"artifact", "zoo"},
    "server": {"artifact"},
    "zoo": set(),
}
ARTIFACT_NEEDS = {"numpy", "PIL", "google"}  # google.protobuf


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_along_the_arrows(room: str) -> None:
    allowed = ARROWS[room] | {room, "modelzoo"}
    strays = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources()
        if path.relative_to(ROOT).parts[0] == room
        for name in imported_rooms(path) & {*ROOMS, "modelzoo", "proto", "tests"}
        if name not in allowed
    }
    assert strays == set()


def test_every_room_has_arrows() -> None:
    assert set(ARROWS) == set(ROOMS)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ROOMS)


def test_the_artifact_room_needs_numpy_and_pillow_only() -> None:
    paths = (path for path in sources() if path.is_relative_to(ROOT / "artifact"))
    strangers = {
        name
        for path in paths
        for name in imported_rooms(path)
        if name not in sys.stdlib_module_names and name not in {"artifact", "modelzoo"}
    }
    assert strangers == ARTIFACT_NEEDS


@pytest.mark.parametrize("room", ["artifact", "server", "client"])
def test_importing_a_serving_room_loads_no_training_library(room: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
        if path.relative_to(ROOT).parts[0] == room
    ]
    code = (
        f"import sys\nfor name in {modules!r}: __import__(name)\n"
        "print([name for name in ('torch', 'torchvision', 'onnx', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_committed_stubs_are_what_protoc_generates(tmp_path: Path) -> None:
    protos = sorted((ROOT / "proto/modelzoo/v1").glob("*.proto"))
    environment = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"}
    outputs = ["--python_out", "--mypy_out", "--grpc_python_out", "--mypy_grpc_out"]
    roots = ["-I", str(ROOT / "proto"), "-I", sysconfig.get_path("purelib")]  # the latter has google.rpc
    command = [sys.executable, "-m", "grpc_tools.protoc", *roots]
    subprocess.run(
        [*command, *(f"{output}={tmp_path}" for output in outputs), *map(str, protos)],
        env=environment,
        check=True,
        capture_output=True,
    )
    committed = {path.name: path.read_text() for path in (ROOT / "proto/modelzoo/v1").glob("*_pb2*.py*")}
    generated = {path.name: path.read_text() for path in (tmp_path / "modelzoo/v1").glob("*_pb2*.py*")}
    # A .proto without a service has nothing to say in its gRPC stub.
    silent = ("manifest_pb2_grpc", "frontend_pb2_grpc")
    generated = {name: text for name, text in generated.items() if not name.startswith(silent)}
    assert committed == generated


def test_files_are_shorter_than_three_hundred_lines() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in sources()
        if (count := len(path.read_text("utf-8").splitlines())) > 299
    }
    assert long == {}
