"""What our server's metrics page says of the work it has done for a model."""

import http.client
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bench.errors import BenchError

_TIMEOUT_S = 10.0
# The page is that of a server on this machine: a proxy of the environment cannot reach it.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Work:
    """Work done since the server started.

    Attributes:
        batches: that ran.
        images: that ran in them.
        ended: requests that ended, by the name of their status.
        unfinished_calls: that began and have not ended, of any model.
    """

    batches: float
    images: float
    ended: Counter[str]
    unfinished_calls: float

    def since(self, before: "Work") -> "Work":
        """Return what was done after ``before``."""
        return Work(
            self.batches - before.batches,
            self.images - before.images,
            self.ended - before.ended,
            self.unfinished_calls,
        )


def read(url: str, model: str) -> Work:
    """Read a metrics page.

    Raises:
        BenchError: no server answers there.
    """
    try:
        with _DIRECT.open(url, timeout=_TIMEOUT_S) as response:
            page = response.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise BenchError(f"the server's metrics cannot be read: {error}") from error
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    ours = [sample for sample in samples if sample.labels.get("model") == model]

    def total(name: str, of: Sequence[Sample]) -> float:
        return sum(sample.value for sample in of if sample.name == name)

    return Work(
        batches=total("modelzoo_batch_size_images_count", ours),
        images=total("modelzoo_batch_size_images_sum", ours),
        ended=Counter(
            {
                sample.labels["code"]: int(sample.value)
                for sample in ours
                if sample.name == "modelzoo_requests_total"
            }
        ),
        unfinished_calls=total("grpc_server_started_total", samples)
        - total("grpc_server_handled_total", samples),
    )
