"""The way from a name to a published artifact: load, train, export, prove, publish."""

import dataclasses
import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from artifact import golden, layout, manifest, publish
from export import card, datasets, graph, recipes, train, verify
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec, ModelSpec

GOLDEN_IMAGES = 16
_TOOLS = ("numpy", "onnx", "onnxruntime-gpu", "onnxscript", "pillow", "scikit-learn", "torch", "torchvision")


class Observer(Protocol):
    """Who wants to see how far an export has come."""

    def step(self, what: str) -> None:
        """Take note that the next step began."""

    def epoch(self, epoch: train.Epoch, epochs: int) -> None:
        """Take note that an epoch, of so many, ended."""


class Silent:
    """An observer that looks away."""

    def step(self, what: str) -> None:
        """Ignore the step."""

    def epoch(self, epoch: train.Epoch, epochs: int) -> None:
        """Ignore the epoch."""


@dataclass(frozen=True)
class Exported:
    """A published artifact, with the network it was made from."""

    folder: Path
    manifest: manifest_pb2.Manifest
    served: graph.ServedNetwork


def export(
    spec: ModelSpec,
    weights: str,
    repository: Path,
    recipe: recipes.Recipe | None = None,
    observer: Observer | None = None,
) -> Exported:
    """Train a network on a dataset, export it and publish it as ``<architecture>-<weights>``.

    Nothing is published unless the exported file gives PyTorch's answers.

    Args:
        weights: name of the dataset to train on.
        recipe: how to train; None looks it up.

    Raises:
        UnknownRecipeError: it is not known how to train this on ``weights``.
        UnknownDatasetError: there is no dataset called ``weights``.
        DivergedError: the training failed.
        GraphError: the exported graph is not what an artifact may hold.
        GoldenError: ONNX Runtime and PyTorch disagree.
        OSError: the repository cannot be written.
    """
    observer = observer or Silent()
    recipe = recipe or recipes.find(spec.name, weights)
    observer.step(f"loading {weights}")
    dataset = datasets.load(weights, recipe.seed)
    shape, preprocessing = _input(spec.input)
    training, validation, test = (
        split.fitted(shape, preprocessing) for split in (dataset.train, dataset.validation, dataset.test)
    )

    observer.step("training")
    started_s = time.monotonic()
    attempts = []
    for start in range(recipe.starts):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                recipe.seed + start
            )  # initialisation and dropout draw from the global generator
            served = graph.ServedNetwork(spec.network(num_classes=len(dataset.labels)), spec.input)
            started = dataclasses.replace(recipe, seed=recipe.seed + start)
            history = train.train(
                served, training, validation, started, lambda epoch: observer.epoch(epoch, recipe.epochs)
            )
        attempts.append((served, history))
    served, history = min(attempts, key=lambda attempt: attempt[1].best.validation_loss)
    origin = manifest_pb2.Weights(
        dataset=dataset.name,
        seed=recipe.seed,
        starts=recipe.starts,
        start=history.recipe.seed - recipe.seed,
        epochs=len(history.epochs),
        best_epoch=history.best.number,
        training_s=round(time.monotonic() - started_s, 3),
    )

    name = f"{spec.name}-{weights}"
    with publish.staging(repository, name) as folder:
        observer.step("exporting to ONNX")
        model_path = folder / layout.MODEL_FILES["fp32"]
        graph.to_onnx(served, model_path)
        observer.step("comparing with PyTorch")
        run = verify.open_on_cpu(model_path)
        expected = train.probabilities(served, test.images)
        tolerances = golden.TOLERANCES["fp32"]
        parity = verify.parity(run, test.images, expected, tolerances[golden.CPU_PROVIDER])
        answers = verify.in_batches(run, test.images, max(verify.BATCH_SIZES))
        confusion = card.confusion_matrix(test.labels, answers)

        observer.step("publishing")
        (folder / layout.LABELS).write_text("".join(f"{label}\n" for label in dataset.labels), "utf-8")
        golden.write(
            folder / layout.GOLDEN, golden.Golden(test.images[:GOLDEN_IMAGES], expected[:GOLDEN_IMAGES])
        )
        description = manifest_pb2.Manifest(
            name=name,
            version=1,  # the publisher numbers it
            architecture=spec.name,
            paper=_paper(spec),
            deviations=spec.deviations,
            parameters=sum(parameter.numel() for parameter in served.parameters()),
            input=shape,
            preprocessing=preprocessing,
            labels=manifest.describe_file(folder / layout.LABELS),
            label_count=len(dataset.labels),
            weights=origin,
            accuracy=manifest_pb2.Accuracy(
                split=dataset.held_out, images=int(confusion.sum()), correct=int(confusion.trace())
            ),
            precisions=[
                manifest_pb2.Precision(
                    name="fp32",
                    file=manifest.describe_file(model_path),
                    parity=parity,
                    tolerances=[
                        manifest_pb2.Tolerance(provider=provider, max_abs_difference=tolerance)
                        for provider, tolerance in tolerances.items()
                    ],
                )
            ],
            golden=manifest.describe_file(folder / layout.GOLDEN),
            tools={tool: importlib.metadata.version(tool) for tool in _TOOLS},
        )
        card.write(
            folder / layout.CARD, description, history, dataset.labels, confusion, dataset.test.images[0]
        )
        published = publish.publish(folder, description)
    return Exported(published, description, served)


def _input(spec: InputSpec) -> tuple[manifest_pb2.Input, manifest_pb2.Preprocessing]:
    """Describe a network's input; a picture is resized to fill it, nothing more."""
    return (
        manifest_pb2.Input(
            height=spec.height, width=spec.width, channels=spec.channels, mean=spec.mean, std=spec.std
        ),
        manifest_pb2.Preprocessing(
            resize_shorter_px=max(spec.height, spec.width),
            interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        ),
    )


def _paper(spec: ModelSpec) -> manifest_pb2.Paper | None:
    paper = spec.paper
    if paper is None:
        return None
    return manifest_pb2.Paper(title=paper.title, authors=paper.authors, year=paper.year, link=paper.link)
