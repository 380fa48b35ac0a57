"""What a graph is made of."""

from collections import Counter
from pathlib import Path

import onnx


def operators(path: Path) -> Counter[str]:
    """Count the operators of an ONNX file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)
