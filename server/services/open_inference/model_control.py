"""What the Open Inference Protocol lets a client change: the models, and regions of shared memory."""

from modelzoo.v1 import open_inference_pb2 as messages
from server.errors import ForbiddenError, InvalidRequestError, RegionNotFoundError, UnsupportedError
from server.models.model import Model, State
from server.models.registry import ModelControl, Models
from server.rpc.context import Methods
from server.rpc.handlers import Handlers
from server.services.open_inference.shared_memory import Regions

_STATES = {  # as the protocol names them
    State.MODEL_STATE_UNLOADED: "UNAVAILABLE",
    State.MODEL_STATE_LOADING: "LOADING",
    State.MODEL_STATE_READY: "READY",
    State.MODEL_STATE_DRAINING: "UNLOADING",
    State.MODEL_STATE_FAILED: "UNAVAILABLE",
}
_DEPENDENTS = "unload_dependents"  # no model has any


class ModelControlService:
    """Answers those calls of ``inference.GRPCInferenceService``.

    Args:
        allow_model_control: whether clients may load and unload.
        allow_client_shm: whether clients may register regions.
    """

    def __init__(
        self,
        models: Models,
        control: ModelControl,
        regions: Regions,
        *,
        allow_model_control: bool,
        allow_client_shm: bool,
    ) -> None:
        self._models = models
        self._control = control
        self._regions = regions
        self._allow_model_control = allow_model_control
        self._allow_client_shm = allow_client_shm

    def methods(self, handlers: Handlers, service: str) -> Methods:
        """Return the methods of these calls."""
        return handlers.simple(
            service,
            {
                messages.RepositoryIndexRequest: self.index,
                messages.RepositoryModelLoadRequest: self.load,
                messages.RepositoryModelUnloadRequest: self.unload,
                messages.SystemSharedMemoryStatusRequest: self.region_status,
                messages.SystemSharedMemoryRegisterRequest: self.register_region,
                messages.SystemSharedMemoryUnregisterRequest: self.unregister_region,
                messages.CudaSharedMemoryStatusRequest: self.cuda_region_status,
                messages.CudaSharedMemoryRegisterRequest: self.register_cuda_region,
                messages.CudaSharedMemoryUnregisterRequest: self.unregister_cuda_region,
            },
        )

    async def index(self, request: messages.RepositoryIndexRequest) -> messages.RepositoryIndexResponse:
        """List every model on disk or in memory, whatever its state.

        Raises:
            UnsupportedError: a repository is named.
        """
        _require_no_name(request.repository_name)
        await self._models.refresh()
        models = [model for model in self._models if model.is_ready or not request.ready]
        return messages.RepositoryIndexResponse(models=map(_indexed, models))

    async def load(
        self, request: messages.RepositoryModelLoadRequest
    ) -> messages.RepositoryModelLoadResponse:
        """Load the newest version of a model.

        Raises:
            ModelZooError: it is forbidden, or failed.
        """
        self._require_control()
        _require_no_name(request.repository_name)
        if request.parameters:
            raise InvalidRequestError("parameters", "an artifact is served as it was published")
        await self._control.load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    async def unload(
        self, request: messages.RepositoryModelUnloadRequest
    ) -> messages.RepositoryModelUnloadResponse:
        """Free a model, after it has answered what it accepted.

        Raises:
            ModelZooError: it is forbidden, or there is no such model.
        """
        self._require_control()
        _require_no_name(request.repository_name)
        if request.parameters.keys() - {_DEPENDENTS}:
            raise InvalidRequestError("parameters", f"there is none but {_DEPENDENTS}")
        await self._control.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    async def region_status(
        self, request: messages.SystemSharedMemoryStatusRequest
    ) -> messages.SystemSharedMemoryStatusResponse:
        """Return what is registered.

        Raises:
            RegionNotFoundError: that is not.
        """
        response = messages.SystemSharedMemoryStatusResponse()
        for region in self._regions.find(request.name):  # a thousand, each written in its place
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def register_region(
        self, request: messages.SystemSharedMemoryRegisterRequest
    ) -> messages.SystemSharedMemoryRegisterResponse:
        """Register a region.

        Raises:
            ModelZooError: it is forbidden, or not possible.
        """
        if not self._allow_client_shm:
            raise ForbiddenError("shared memory needs a server with --allow-client-shm")
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    async def unregister_region(
        self, request: messages.SystemSharedMemoryUnregisterRequest
    ) -> messages.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all."""
        self._regions.unregister(request.name)
        return messages.SystemSharedMemoryUnregisterResponse()

    async def cuda_region_status(
        self, request: messages.CudaSharedMemoryStatusRequest
    ) -> messages.CudaSharedMemoryStatusResponse:
        """Return that nothing is registered.

        Raises:
            RegionNotFoundError: a region is named.
        """
        if request.name:
            raise RegionNotFoundError("there is no shared memory of CUDA here")
        return messages.CudaSharedMemoryStatusResponse()

    async def register_cuda_region(
        self, request: messages.CudaSharedMemoryRegisterRequest
    ) -> messages.CudaSharedMemoryRegisterResponse:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        del request
        raise UnsupportedError("there is no shared memory of CUDA here; system shared memory there may be")

    async def unregister_cuda_region(
        self, request: messages.CudaSharedMemoryUnregisterRequest
    ) -> messages.CudaSharedMemoryUnregisterResponse:
        """Forget what was never there: clients ask for it whatever they will use."""
        del request
        return messages.CudaSharedMemoryUnregisterResponse()

    def _require_control(self) -> None:
        if not self._allow_model_control:
            raise ForbiddenError("loading and unloading need a server with the setting allow_model_control")


def _require_no_name(repository_name: str) -> None:
    if repository_name:
        raise UnsupportedError("there is one repository, without a name")


def _indexed(model: Model) -> messages.RepositoryIndexResponse.ModelIndex:
    reason = model.status.reason
    if model.status.state == State.MODEL_STATE_UNLOADED:
        reason = "unloaded"
    return messages.RepositoryIndexResponse.ModelIndex(
        name=model.entry.name,
        version=str(model.entry.version),
        state=_STATES[model.status.state],
        reason=reason,
    )
