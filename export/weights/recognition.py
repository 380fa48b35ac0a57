"""Whether a file of weights is one that torchvision publishes, which then says how it is to be used."""

from pathlib import Path

from export.weights import checkpoint
from export.weights.state_dict import COUNTER, WeightsError
from zoo import weights


def recognised(
    file: checkpoint.Checkpoint, published: weights.ImageNetWeights | None, folder: Path | None
) -> weights.ImageNetWeights | None:
    """Return what torchvision says of weights; None where they are not its own, as far as can be seen.

    The very file is known by its hash. One that was saved anew is compared with torchvision's, tensor by
    tensor, where that lies in the folder of downloads: torchvision publishes no other hash than the file's.
    """
    if published is None or file.sha256.startswith(published.sha256_start):
        return published
    kept = published.path(folder)
    if not kept.is_file():
        return None
    try:
        original = checkpoint.read(kept)
    except WeightsError:
        return None
    if not original.sha256.startswith(published.sha256_start):  # what lies there is not what was published
        return None
    official = original.state
    compared = {name for name in {**official, **file.state} if not name.endswith(COUNTER)}
    both = compared <= official.keys() & file.state.keys()
    return published if both and all(official[name].equal(file.state[name]) for name in compared) else None


def unknown(published: weights.ImageNetWeights) -> str:
    """Say how a file is to be taken that may be torchvision's own, saved anew."""
    pixels = published.input
    mean, std = (",".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
    return (
        f"warning: not known as {published.source}; if it is, saved anew, give --mean {mean} --std {std} "
        f"--resize {published.resize_shorter_px} --crop {pixels.height} and its --labels, or keep "
        f"{published.file_name} in the folder of torch.hub to compare with"
    )
