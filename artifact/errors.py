"""Everything that can be wrong with what is on disk, or with a picture; and text of others, fit for a line.

ArtifactError              an artifact that must not be served
├── ManifestError          manifest.json is missing, malformed or contradicts itself
├── DamagedFileError       a file is missing, or is not the one that was published
├── UnsafeGraphError       the graph holds what no artifact may, or would take too much memory or time
├── GoldenError            the network does not give the reference's answers
└── MissingPrecisionError  there is no file of the precision that was asked for
PictureError               a picture that cannot be decoded, or is too large to try
"""

MAX_CHARACTERS = 200  # of a reason or a name; gRPC sends statuses in headers, which have room for 8 kB in all


class ArtifactError(Exception):
    """An artifact that must not be served; the message says why, in one line."""


class ManifestError(ArtifactError):
    """``manifest.json`` is missing, malformed or contradicts itself."""


class DamagedFileError(ArtifactError):
    """A file of the artifact is missing, or is not the one that was published."""


class UnsafeGraphError(ArtifactError):
    """The graph holds what no artifact may hold, or would take too much memory or time to run."""


class GoldenError(ArtifactError):
    """The network does not give the reference's answers to the golden images."""


class MissingPrecisionError(ArtifactError):
    """The artifact has no file of the precision that was asked for."""


class PictureError(ValueError):
    """A picture that cannot be decoded, or is too large to try; the message says why."""


def first_line(error: BaseException) -> str:
    """Say an error in one line: libraries add pages of advice; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str, limit: int = MAX_CHARACTERS) -> str:
    r"""Escape control, bidirectional and other invisible characters as ``\x1b``, and shorten what is long."""
    shortened = text if len(text) <= limit else f"{text[: limit - 1]}…"
    if shortened.isprintable():
        return shortened
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in shortened
    )
    return escaped if len(escaped) <= limit else f"{escaped[: limit - 1]}…"
