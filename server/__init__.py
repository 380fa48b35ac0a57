"""Answers: loads artifacts into ONNX Runtime and classifies pictures over gRPC."""

import os

# ONNX Runtime reports usage data unless it is told not to before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# gRPC writes what its peers say, the debug text of a GOAWAY say, to standard error as it came: hundreds of
# megabytes from one client. It reads this before it starts; an operator may want to see all the same.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Pydantic looks for plugins in the metadata of every package that is installed, at each start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
