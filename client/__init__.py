"""Asks: the Python client of the classifier service."""

from client.client import Client, ClientError, Label

__all__ = ["Client", "ClientError", "Label"]
