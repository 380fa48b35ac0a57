"""A network whose weights the tests here save in many ways."""

import pytest
import torch

from tests.export.weights.states import LENET, State


@pytest.fixture(scope="module")
def lenet() -> State:
    torch.manual_seed(0)
    return LENET.network().state_dict()
