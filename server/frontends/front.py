"""The gRPC port as the engine sees it, in its own process or in front ends."""

from typing import Protocol

from prometheus_client import CollectorRegistry

from server.models.model import State
from server.shutdown import GracePeriod


class HealthStates(Protocol):
    """The states that health checks answer with."""

    def set_server(self, *, serving: bool) -> None:
        """Set whether the server serves."""

    def set_model(self, name: str, state: "State.ValueType") -> None:
        """Set the state of a model."""

    def forget_model(self, name: str) -> None:
        """Drop a model that is gone."""

    def set_fault(self, reason: str) -> None:
        """Set what is out of order; empty where nothing is."""


class Front(Protocol):
    """The gRPC port, in this process (`GrpcServer`) or in front ends (`FrontendPool`)."""

    @property
    def health(self) -> HealthStates:
        """What it answers to health checks."""

    @property
    def missing(self) -> str:
        """Why no client can be answered; empty where one can."""

    def exposed(self, registry: CollectorRegistry) -> CollectorRegistry:
        """Return what the metrics port shows: a registry, and what is counted elsewhere."""

    async def open(self) -> None:
        """Open the port."""

    async def agree(self) -> None:
        """Wait until all that answer know the states of the models."""

    async def settle(self) -> None:
        """Let every request that has come go on to its model."""

    async def stop(self, grace: GracePeriod) -> None:
        """Answer what was accepted, refuse what is new, and close the port."""
