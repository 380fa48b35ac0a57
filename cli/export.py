"""`modelzoo export`."""

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.terminal.console import MAX_MESSAGE, RefusedError, err, one_line, out, refuse, refusing
from cli.terminal.preparation import colour, numbers

if TYPE_CHECKING:
    from export.pipeline import Exported
    from export.training.train import Epoch
    from export.weights import preprocessing as preprocessing_


ALL = "all"


# The option --preprocessing, and --mean, --std, --resize, --crop and --interpolation.
Preprocessing = tuple[str | None, str | None, str | None, int | None, int | None, str | None]
_NONE_GIVEN: Preprocessing = (None,) * 6


def run(
    names: list[str],
    precision: str | None,
    preprocessing: Preprocessing = _NONE_GIVEN,
    *,
    absent: bool,
    background: str | None = None,
    **options: Any,
) -> None:
    """Export every named architecture; one that fails leaves the others to be tried.

    Args:
        names: of the catalog, or `all`: the small ones first.
        precision: names separated by commas; None for what fits the weights.
        preprocessing: as the options say it.
        absent: pass over those that the repository holds.
        background: colour that transparent pictures are put on.
        options: the other fields of `pipeline.Request`.
    """
    with refusing():
        from artifact import layout
        from artifact.errors import ArtifactError, first_line
        from export import pipeline
        from export.errors import ExportError
        from zoo.catalog import CATALOG, UnknownArchitectureError, find

    with refusing(UnknownArchitectureError, ExportError):
        smallest_first = sorted(CATALOG, key=lambda spec: spec.parameters)
        specs = smallest_first if names == [ALL] else [find(name) for name in names]
        request = pipeline.Request(
            precisions=precisions_of(precision),
            preprocessing=_chosen(*preprocessing),
            background=colour("--background", background),
            **options,
        )
        request.require_applicable()
        if request.name is not None and len(specs) > 1:
            raise RefusedError("one --name cannot be the name of several models")
    failed = []
    for spec in specs:
        name = request.model_name(spec)
        if absent and layout.versions(request.repository / name):
            err.print(f"{name}: exported already")
            continue
        try:
            with Bars(name) as bars:
                exported = pipeline.export(spec, request, bars)
        except Exception as error:
            known = isinstance(error, (ArtifactError, ExportError, OSError))
            if len(specs) == 1 and known:
                refuse(first_line(error))
            if len(specs) == 1:
                raise
            failed.append(name)
            if not known:
                err.print("".join(traceback.format_exception(error)))  # a bug in one leaves the rest
            err.print(f"{name}: {first_line(error)}", style="red")
            continue
        for line in told(exported):
            out.print(line, soft_wrap=True)
    if failed:
        refuse(f"{len(failed)} of {len(specs)} not exported: {', '.join(failed)}")


def precisions_of(said: str | None) -> list[str] | None:
    """Read the names of precisions, separated by commas.

    Raises:
        RefusedError: there is none of such a name.
    """
    from artifact import layout

    if said is None:
        return None
    names = [name.strip() for name in said.split(",")]
    for name in names:
        if name not in layout.MODEL_FILES:
            raise RefusedError(f"no precision is called {name!r}; there are {', '.join(layout.MODEL_FILES)}")
    return names


def _chosen(
    start_or_file: str | None,
    mean: str | None,
    std: str | None,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
) -> "preprocessing_.Preprocessing":
    from export.weights import preprocessing

    return preprocessing.chosen(
        start_or_file,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        resize=resize,
        crop=crop,
        interpolation=interpolation,
    )


def told(exported: "Exported") -> Iterator[str]:
    """Say what was published, a line a precision."""
    from artifact import manifest

    described = exported.manifest
    for precision in described.precisions:
        worst = max(parity.max_abs_difference for parity in precision.parity)
        accuracy = precision.accuracy
        ratio = manifest.accuracy_ratio(precision)
        right = (
            "accuracy not measured"
            if ratio is None
            else f"{accuracy.correct:,} of {accuracy.images:,} held-out images right ({ratio:.2%})"
        )
        yield f"{exported.folder} {precision.name}: {right}, at most {worst:.1e} from {described.reference}"
    for refusal in described.refusals:
        yield f"{exported.folder} without {refusal.reason}"
    if label := described.weights.augmentation.unmirrored_label:
        yield (
            f"{exported.folder} trained without mirrored pictures: the label {label!r} suggests a side "
            "(--mirror mirrors all the same)"
        )


class Bars:
    """Shows an export's steps on standard error: as a bar on a terminal, else as lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(name, total=None, note="")

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, what: str) -> None:
        """Show the step that began."""
        if not err.is_terminal:
            err.print(f"{self._name}: {what}")
        self._progress.update(self._task, description=f"{self._name}: {what}", note="")

    def note(self, text: str) -> None:
        """Show what should be known of the artifact, and leave it there."""
        err.print(f"{self._name}: {one_line(text, MAX_MESSAGE)}", style="yellow")

    def images(self, done: int, total: int) -> None:
        """Show the images trained on so far."""
        self._progress.update(self._task, completed=done, total=total)

    def epoch(self, epoch: "Epoch") -> None:
        """Show the epoch that ended."""
        note = (
            f"epoch {epoch.number}: loss {epoch.training_loss:.3f}, validation {epoch.validation_loss:.3f} "
            f"({epoch.validation_accuracy_ratio:.1%} right), {epoch.images_per_s:,.0f} images/s"
        )
        if not err.is_terminal:
            err.print(f"{self._name}: {note}")
        self._progress.update(self._task, note=note)
