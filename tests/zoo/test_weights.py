from __future__ import annotations

import dataclasses
import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torchvision import models

from tests.zoo.networks import as_after_training
from zoo import weights
from zoo.catalog import CATALOG, find
from zoo.spec import InputSpec

WITHOUT = {"lenet5", "zfnet", "simple_cnn", "two_block_cnn"}
IMAGENET = InputSpec(3, 224, 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
MINUS_ONE_TO_ONE = InputSpec(3, 224, 224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CONTENT = b"weights, say"
DIGITS = hashlib.sha256(CONTENT).hexdigest()


def published_at(path: Path) -> weights.ImageNetWeights:
    found = weights.imagenet("resnet18")
    assert found is not None
    return dataclasses.replace(found, url=path.as_uri())


def test_every_row_of_torchvisions_has_weights_and_the_others_have_none() -> None:
    without = {spec.name for spec in CATALOG if weights.imagenet(spec.name) is None}
    assert without == WITHOUT
    assert without == {spec.name for spec in CATALOG if not hasattr(models, spec.name)}


@pytest.mark.parametrize("name", [spec.name for spec in CATALOG if spec.name not in WITHOUT])
def test_weights_fit_their_row(name: str) -> None:
    found = weights.imagenet(name)
    member = models.get_model_weights(name).IMAGENET1K_V1
    assert found is not None
    assert found.url == member.url
    assert len(found.labels) == find(name).num_classes == 1000
    assert (found.input.height, found.input.width) == (find(name).input.height, find(name).input.width)
    assert found.resize_shorter_px >= found.input.height
    assert 0.56 < found.accuracy_ratio < 0.79
    assert len(found.sha256_start) == 8
    assert found.url == f"https://download.pytorch.org/models/{found.file_name}"
    # ImageNet's normalisation, but where torchvision would undo it inside the network.
    inside = name in {"googlenet", "inception_v3"}
    assert found.input.mean == (MINUS_ONE_TO_ONE if inside else IMAGENET).mean
    assert found.input.std == (MINUS_ONE_TO_ONE if inside else IMAGENET).std


def test_resnet18s_weights_are_described_to_the_last_digit() -> None:
    found = weights.imagenet("resnet18")
    assert found is not None
    assert dataclasses.replace(found, labels=found.labels[:2]) == weights.ImageNetWeights(
        source="torchvision ResNet18_Weights.IMAGENET1K_V1",
        url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
        labels=("tench", "goldfish"),
        accuracy_ratio=0.69758,
        input=IMAGENET,
        resize_shorter_px=256,
        interpolation="bilinear",
    )
    assert (found.file_name, found.sha256_start) == ("resnet18-f37072fd.pth", "f37072fd")
    inception = weights.imagenet("inception_v3")
    assert inception is not None
    assert (inception.input.height, inception.resize_shorter_px) == (299, 342)


@pytest.mark.parametrize(("name", "side_px"), [("googlenet", 32), ("inception_v3", 75)])
def test_mean_and_std_of_a_half_answer_as_torchvisions_own_module_that_transforms_its_input(
    name: str, side_px: int
) -> None:
    torch.manual_seed(0)
    ours = as_after_training(name)
    with torch.device("meta"):
        theirs = getattr(models, name)(
            weights=None, aux_logits=False, init_weights=False, transform_input=True
        ).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    found = weights.imagenet(name)
    assert found is not None

    pixels = torch.rand(2, 3, side_px, side_px)
    preset = models.get_model_weights(name).IMAGENET1K_V1.transforms()
    with torch.no_grad():
        answer = ours(normalised(pixels, found.input.mean, found.input.std))
        expected = theirs(normalised(pixels, preset.mean, preset.std))
        without = ours(normalised(pixels, preset.mean, preset.std))
    spread = expected.std().item()
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5 * spread)
    assert (without - expected).abs().max().item() > 1e-2 * spread  # the test would see the difference


def normalised(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (pixels - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)


def test_a_file_is_fetched_once_and_kept(tmp_path: Path) -> None:
    origin = tmp_path / f"toy-{DIGITS[:8]}.pth"
    origin.write_bytes(CONTENT)
    kept = published_at(origin).download(tmp_path / "kept")
    assert kept == tmp_path / "kept" / origin.name
    assert kept.read_bytes() == CONTENT
    origin.unlink()
    assert published_at(origin).download(tmp_path / "kept") == kept


def test_a_file_with_another_hash_than_its_name_says_is_refused_and_not_kept(tmp_path: Path) -> None:
    origin = tmp_path / "toy-00000000.pth"
    origin.write_bytes(CONTENT)
    with pytest.raises(
        weights.DownloadError, match=rf'toy-00000000\.pth is not the file .*00000000.*"{DIGITS}"'
    ):
        published_at(origin).download(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_kept_file_that_was_damaged_since_is_refused(tmp_path: Path) -> None:
    origin = tmp_path / f"toy-{DIGITS[:8]}.pth"
    origin.write_bytes(CONTENT)
    kept = published_at(origin).download(tmp_path / "kept")
    kept.write_bytes(CONTENT[:-1])
    with pytest.raises(weights.DownloadError, match=rf"{kept} is not the file .*not {DIGITS[:8]}…; remove"):
        published_at(origin).download(tmp_path / "kept")


def test_an_address_without_a_file_is_refused_in_one_line_that_says_where_to_put_it(tmp_path: Path) -> None:
    origin = tmp_path / "toy-00000000.pth"
    with pytest.raises(weights.DownloadError, match="cannot be fetched") as caught:
        published_at(origin).download(tmp_path / "kept")
    assert str(tmp_path / "kept" / origin.name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nweig"])
def test_a_server_that_falls_silent_is_not_waited_for(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")  # where a proxy is set, it would be asked
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/toy-00000000.pth"
        published = dataclasses.replace(published_at(tmp_path), url=url)
        download = pool.submit(published.download, tmp_path / "kept", patience_s=0.2)
        connection, _ = server.accept()
        with connection:
            connection.sendall(said)
            with pytest.raises(weights.DownloadError, match="cannot be fetched"):
                download.result(60)
    assert list((tmp_path / "kept").iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_an_address_without_a_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(weights.DownloadError, match=r"toy\.pth holds no hash"):
        published_at(tmp_path / "toy.pth").download(tmp_path)


def test_auxiliary_heads_are_dropped_and_nothing_else() -> None:
    with torch.device("meta"):
        theirs = models.googlenet(weights=None, aux_logits=True, init_weights=False).state_dict()
        inceptions = models.inception_v3(weights=None, aux_logits=True, init_weights=False).state_dict()
        assert weights.modernised(theirs).keys() == find("googlenet").network().state_dict().keys()
        assert weights.modernised(inceptions).keys() == find("inception_v3").network().state_dict().keys()
    assert len(theirs) - len(weights.modernised(theirs)) == 20
    assert len(inceptions) - len(weights.modernised(inceptions)) == 14


def test_old_names_in_a_densenet_are_renewed() -> None:
    with torch.device("meta"):
        names = find("densenet121").network().state_dict()
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): value
        for name, value in names.items()
        if not name.endswith("num_batches_tracked")  # as the published file, which is older
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    renewed = weights.modernised(old)
    assert renewed.keys() == {name for name in names if not name.endswith("num_batches_tracked")}
    assert (
        renewed["features.denseblock1.denselayer1.norm1.weight"]
        is (old["features.denseblock1.denselayer1.norm.1.weight"])
    )
