"""The rules of the house that a machine can check: arrows, stubs, sizes."""

import ast
import graphlib
import subprocess
import sys
import sysconfig
from collections import Counter
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
# The same inside the rooms that have rooms. Every inner room may import the vocabulary beside it; composition
# roots may import everything, and no room imports them.
INNER_ARROWS: dict[str, dict[str, set[str]]] = {
    "server": {
        # the engine's column
        "runtime": set(),
        "batching": {"observability", "runtime"},
        "repository": {"batching", "models", "observability", "runtime"},
        # the front's column
        "rpc": {"observability"},
        "processing": {"models", "observability", "rpc"},
        "services": {"models", "processing", "rpc"},
        # between, and below both
        "frontends": {"batching", "liveness", "models", "observability"},
        "models": {"observability"},
        "liveness": {"observability"},
        "observability": set(),
    },
    "export": {
        "data": set(),
        "graph": set(),
        "training": {"data", "graph"},
        "weights": {"data"},
        "onnx_import": {"data", "graph"},
        "publishing": {"candidate", "data", "graph", "training"},
        "candidate": {"data", "graph", "training"},
        "request": {"data", "training", "weights"},
    },
    "bench": {
        "load": set(),
        "measured": {"load"},
        "comparison": {"load", "measured"},
        "hostile": {"measured"},
    },
    "cli": {"terminal": set()},
}
VOCABULARY = {
    "server": {"config", "deadlines", "errors", "inference", "machine", "ports", "shutdown", "threads"},
    "export": {"errors", "memory", "session"},
    "bench": {"errors", "plan"},
    "cli": set(),
}
COMPOSITION_ROOTS = {
    "server": {"app", "frontend", "grpc_server", "process"},
    "export": {"pipeline", "sources"},
    # each a command
    "bench": {"batcher", "ceiling", "lanes", "loop_occupancy", "loop_requests", "start", "transports", "zoo"},
    "cli": {
        *(
            "main",
            "bench",
            "card",
            "catalog",
            "classify",
            "export",
            "import_onnx",
            "serve",
            "status",
            "verify",
        )
    },
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


def inner_imports(room: str) -> dict[str, set[str]]:
    """The imports inside a room: of every module by its name below it, the modules that it imports."""
    paths = {
        ".".join(path.relative_to(ROOT / room).with_suffix("").parts): path
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name not in {"__init__.py", "__main__.py"}
    }
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == room:
                package = (node.module or "").partition(".")[2]
                for alias in node.names:
                    inner = f"{package}.{alias.name}".strip(".")
                    found[name].add(inner if inner in paths else package)
            elif isinstance(node, ast.Import):
                found[name] |= {
                    alias.name.partition(".")[2] for alias in node.names if alias.name.startswith(f"{room}.")
                }
    return found


def box(module: str) -> str:
    """What is seen of a module from the room that it is in: its inner room, or itself."""
    return module.partition(".")[0]


@pytest.mark.parametrize("room", INNER_ARROWS)
def test_inner_rooms_import_only_along_the_arrows(room: str) -> None:
    arrows, vocabulary, roots = INNER_ARROWS[room], VOCABULARY[room], COMPOSITION_ROOTS[room]
    strays = {
        (module, imported)
        for module, all_imported in inner_imports(room).items()
        for imported in all_imported
        if box(module) not in roots
        and box(imported) not in {box(module), *vocabulary, *arrows.get(box(module), set())}
    }
    assert strays == set()
    assert {box(module) for module in inner_imports(room)} == {*arrows, *vocabulary, *roots}


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_imports_itself_by_a_detour(room: str) -> None:
    order = graphlib.TopologicalSorter(inner_imports(room)).static_order()
    assert len(list(order)) == len(inner_imports(room))


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_neither_empty_nor_halls(room: str) -> None:
    sizes = Counter(module.rpartition(".")[0] for module in inner_imports(room))
    assert {inner: size for inner, size in sizes.items() if not 2 <= size <= 12} == {}


def test_the_server_has_few_boxes_on_few_floors() -> None:
    boxes: dict[str, set[str]] = {}
    for module, imported in inner_imports("server").items():
        boxes.setdefault(box(module), set()).update(box(one) for one in imported if box(one) != box(module))
    floors: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(boxes).static_order():
        floors[name] = 1 + max((floors[below] for below in boxes[name]), default=0)
    assert len(boxes) <= 22
    assert max(floors.values()) <= 7


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


@pytest.mark.parametrize("command", ["status", "classify"])
def test_a_command_that_only_asks_loads_nothing_that_serves(command: str) -> None:
    heavy = ("server", "artifact", "onnxruntime", "pydantic", "PIL", "numpy")
    code = f"import sys, cli.main, cli.{command}; print(sys.modules.keys() & {heavy!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


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
