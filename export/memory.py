"""A bound on the memory that a library may take for a file that it was given."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def bounded(more_bytes: int) -> Iterator[None]:
    """Let the process allocate so much more; beyond it an allocation fails, and becomes an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])  # data and stack
    bound = pages * resource.getpagesize() + more_bytes
    known = [limit for limit in (soft, hard, bound) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
