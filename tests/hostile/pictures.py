"""Mutated pictures against the decoders, in processes of their own: a crash is a failure, not the end.

    python -m tests.hostile.pictures [--count 100000] [--seed 0]

Every mutant goes through both decoders, whole and scaled. Nothing but pixels or a PictureError may come out,
and the process must be alive at the end. A batch that kills its process is run again one by one, and the
mutant is written down.
"""

import argparse
import io
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from artifact import pictures
from artifact.errors import PictureError
from artifact.pictures import Limits
from modelzoo.v1 import manifest_pb2
from server.processing import jpeg

BATCH = 2_000  # mutants of one process
BATCH_TIMEOUT_S = 600
SIDE_PX = 2  # so small that the samples are decoded at an eighth of their size
SHAPE = manifest_pb2.Input(height=SIDE_PX, width=SIDE_PX, channels=3)
PREPROCESSINGS = [
    manifest_pb2.Preprocessing(
        resize_shorter_px=SIDE_PX, interpolation=manifest_pb2.INTERPOLATION_BILINEAR, scaled_decoding=scaled
    )
    for scaled in (False, True)
]
LIMITS = Limits(max_pixels=200_000)
MAGIC_BYTES = 8  # of a PNG, left alone, or little would get past the first look
# What decides how a JPEG is decoded: kinds of frames, tables, scans, restarts, ends, metadata.
MARKERS = (*range(0xC0, 0xE2), 0xEE, 0xFE)


def samples() -> dict[str, bytes]:
    """Pictures of every kind that is decoded, and of some that are not."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    options = {
        "4:2:0": {"format": "JPEG", "exif": exif},
        "4:4:4": {"format": "JPEG", "subsampling": 0},
        "restarts": {"format": "JPEG", "restart_marker_blocks": 2},
        "progressive": {"format": "JPEG", "progressive": True},
        "WebP": {"format": "WEBP", "exif": exif},
        "WebP lossless": {"format": "WEBP", "lossless": True},
        "WebP animated": {"format": "WEBP", "save_all": True, "append_images": [noise.rotate(90)]},
        "PNG": {"format": "PNG", "exif": exif},
        "PNG animated": {"format": "PNG", "save_all": True, "append_images": [noise.rotate(90)]},
    }
    files = {}
    for name, option in options.items():
        stream = io.BytesIO()
        noise.save(stream, **option)
        files[name] = stream.getvalue()
    for mode, form in (
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("LA", "PNG"),
        ("RGBA", "WEBP"),
        ("1", "PNG"),
        ("I;16", "PNG"),
    ):
        stream = io.BytesIO()
        image = Image.fromarray(np.arange(2240, dtype=np.uint16).reshape(40, 56)) if mode == "I;16" else noise
        (image if mode == "I;16" else image.convert(mode)).save(stream, form)
        files[f"{form} {mode}"] = stream.getvalue()
    return files


def mutated(encoded: bytes, generator: random.Random) -> bytes:
    """Change, cut out, repeat, insert or renumber a few bytes."""
    damaged = bytearray(encoded)
    for _ in range(generator.randint(1, 4)):
        if len(damaged) <= MAGIC_BYTES + 1:
            break
        position = generator.randrange(min(MAGIC_BYTES, len(damaged) - 1), len(damaged))
        if generator.random() < 0.5:  # where the header is, for most of a file is pixels
            position = generator.randrange(2, min(len(damaged), 700))
        stop = position + generator.randint(1, 16)
        match generator.randrange(6):
            case 0:
                damaged[position] = generator.choice((0, 0xFF, generator.randrange(256)))
            case 1:
                del damaged[position:stop]
            case 2:
                damaged[position:position] = damaged[position:stop]
            case 3:
                damaged[position:position] = generator.randbytes(stop - position)
            case 4:
                damaged[position : position + 2] = bytes([0xFF, generator.choice(MARKERS)])
            case _:
                marks = [
                    at for at in range(len(damaged) - 1) if damaged[at] == 0xFF and damaged[at + 1] >= 0xC0
                ]
                if marks:
                    damaged[generator.choice(marks) + 1] = generator.choice(MARKERS)
    return bytes(damaged)


def mutant(seed: int, number: int, files: dict[str, bytes]) -> bytes:
    """Make one mutant, the same for the same numbers."""
    generator = random.Random(f"{seed} {number}")
    return mutated(files[generator.choice(sorted(files))], generator)


def run(seed: int, start: int, stop: int) -> int:
    """Decode mutants in this process; give how many were decoded by the server's decoder.

    Raises:
        AssertionError: something else than pixels or a PictureError came out.
    """
    files = samples()
    decoded = 0
    for number in range(start, stop):
        file = mutant(seed, number, files)
        for preprocessing in PREPROCESSINGS:
            for codec in (pictures.pillow, jpeg.codec):
                try:
                    pixels = pictures.decode(file, SHAPE, preprocessing, LIMITS, codec)
                except PictureError:
                    continue
                except Exception as error:
                    raise AssertionError(f"mutant {number} of seed {seed}: {error!r}") from error
                assert pixels.shape == (SIDE_PX, SIDE_PX, 3), f"mutant {number} of seed {seed}"
                decoded += codec is jpeg.codec
    return decoded


def in_process(seed: int, start: int, stop: int) -> "subprocess.CompletedProcess[str]":
    """Decode mutants in a process of their own."""
    command = [sys.executable, "-m", "tests.hostile.pictures", "--batch", str(seed), str(start), str(stop)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=BATCH_TIMEOUT_S)


def fuzz(seed: int, count: int, folder: Path) -> tuple[int, list[str]]:
    """Decode so many mutants; give how many were decoded, and what went wrong.

    Args:
        folder: where the mutants that killed their process are written.
    """
    decoded, failures = 0, []
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        done = in_process(seed, start, stop)
        if done.returncode == 0:
            decoded += int(done.stdout)
            continue
        for number in range(start, stop):
            one = in_process(seed, number, number + 1)
            if one.returncode != 0:
                path = folder / f"mutant-{seed}-{number}"
                path.write_bytes(mutant(seed, number, samples()))
                failures.append(f"{path}: exit code {one.returncode}: {one.stderr.strip()[-200:]}")
                break
        else:
            failures.append(
                f"mutants {start} to {stop} of seed {seed} together: {done.stderr.strip()[-200:]}"
            )
    return decoded, failures


def main() -> int:
    """Decode so many mutants; 1 where one ended its process or gave what it must not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile.pictures", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        sys.stdout.write(f"{run(*options.batch)}\n")
        return 0
    started_s = time.monotonic()
    decoded, failures = fuzz(options.seed, options.count, Path.cwd())
    for failure in failures:
        sys.stderr.write(f"{failure}\n")
    sys.stdout.write(
        f"{options.count:,} mutants, each decoded whole and scaled by both decoders; {decoded:,} times the "
        f"server's gave pixels; {len(failures)} failures; {time.monotonic() - started_s:.0f} s\n"
    )
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
