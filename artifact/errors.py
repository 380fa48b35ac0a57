"""Everything that can be wrong with what is on disk, or with a picture.

ArtifactError              an artifact that must not be served
├── ManifestError          manifest.json is missing, malformed or contradicts itself
├── DamagedFileError       a file is missing, or is not the one that was published
├── UnsafeGraphError       the graph holds what no artifact may, or would take too much memory or time
├── GoldenError            the network does not give the reference's answers
└── MissingPrecisionError  there is no file of the precision that was asked for
PictureError               a picture that cannot be decoded, or is too large to try
"""


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
