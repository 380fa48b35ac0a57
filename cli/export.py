"""`modelzoo export`."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.console import err, out, refusing

if TYPE_CHECKING:
    from export.train import Epoch


def run(names: list[str], weights: str, repository: Path) -> None:
    """Export every named architecture; the first that fails ends the command."""
    with refusing():
        from artifact.errors import ArtifactError
        from export import pipeline, recipes
        from export.datasets import UnknownDatasetError
        from export.graph import GraphError
        from export.train import DivergedError
        from zoo.catalog import UnknownArchitectureError, find

    failures = (
        UnknownArchitectureError,
        UnknownDatasetError,
        recipes.UnknownRecipeError,
        ArtifactError,
        GraphError,
        DivergedError,
        OSError,
    )
    with refusing(*failures):
        specs = [find(name) for name in names]
        for spec in specs:
            recipes.find(spec.name, weights)  # a name that cannot be trained is refused before the first is
        for spec in specs:
            with _Bars(f"{spec.name}-{weights}") as bars:
                exported = pipeline.export(spec, weights, repository, observer=bars)
            accuracy, fp32 = exported.manifest.accuracy, exported.manifest.precisions[0]
            worst = max(parity.max_abs_difference for parity in fp32.parity)
            out.print(
                f"{exported.folder}: {accuracy.correct} of {accuracy.images} held-out images right "
                f"({accuracy.correct / accuracy.images:.2%}), trained in "
                f"{exported.manifest.weights.training_s:.1f} s, at most {worst:.1e} from PyTorch",
                soft_wrap=True,
            )


class _Bars:
    """Shows an export's steps on standard error: as a bar on a terminal, else as lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(name, total=None, note="")

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, what: str) -> None:
        """Show the step that began."""
        if not err.is_terminal:
            err.print(f"{self._name}: {what}")
        self._progress.update(self._task, description=f"{self._name}: {what}", note="")

    def epoch(self, epoch: "Epoch", epochs: int) -> None:
        """Show the epoch that ended."""
        note = (
            f"loss {epoch.training_loss:.3f}, validation {epoch.validation_loss:.3f} "
            f"({epoch.validation_accuracy_ratio:.1%} right), {epoch.images_per_s:,.0f} images/s"
        )
        self._progress.update(self._task, completed=epoch.number, total=epochs, note=note)
