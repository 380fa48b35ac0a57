"""Made pictures are the same every time, and differ from each other as networks see them."""

import numpy as np
import pytest
import torch

from export.graph import probes
from zoo import catalog


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (8, 12, 3), (224, 224, 3)])
def test_pictures_are_made_for_every_size_and_the_same_every_time(shape: tuple[int, int, int]) -> None:
    images = probes.pictures(*shape)
    assert (images.shape, images.dtype) == ((32, *shape), np.uint8)
    np.testing.assert_array_equal(images, probes.pictures(*shape))
    if shape != (1, 1, 1):
        assert len({image.tobytes() for image in images}) == 32


def test_the_first_pictures_have_as_many_labels_as_there_are() -> None:
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    answers = np.eye(4, dtype=np.float32)[[0, 0, 0, 2, 0, 2, 3, 0]]
    ordered, theirs = probes.telling(lambda given: answers[given.reshape(-1)], images, batch_size=3)
    np.testing.assert_array_equal(theirs, answers[ordered.reshape(-1)])
    assert ordered.reshape(-1).tolist() == [0, 3, 6, 1, 5, 2, 4, 7]


def test_a_network_gives_them_answers_that_differ_more_than_those_to_noise() -> None:
    torch.manual_seed(0)
    spec = catalog.find("lenet5")
    network = spec.network(10, spec.input.resized(32, 32)).eval()

    def spread(images: np.ndarray) -> float:
        with torch.no_grad():
            pixels = torch.tensor(images.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
            return float(network(pixels).std(dim=0).mean())

    made = probes.pictures(32, 32, spec.input.channels)
    noise = np.random.default_rng(0).integers(0, 256, made.shape, np.uint8)
    assert spread(made) > 1.5 * spread(noise)
