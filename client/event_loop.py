"""The event loop that loads run on."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, on uvloop where it is installed: it costs a client less."""
    try:
        import uvloop
    except ModuleNotFoundError:  # it comes with the server
        return asyncio.run(main)
    return uvloop.run(main)
