"""Asks: the Python client of the classifier service."""

from client.client import Client, Label
from client.errors import ClientError

__all__ = ["Client", "ClientError", "Label"]
