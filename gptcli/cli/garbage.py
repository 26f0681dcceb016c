"""Python's search for garbage, kept away from what stays until the process ends.

What is imported is no garbage, PyTorch's million objects least of all; looking through them costs
an eighth of that import, a sixth of a second at times while a model runs, and most of a second when
the process ends.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def none_made() -> Iterator[None]:
    """For imports: inside, nothing is searched; what they brought, never again."""
    was_on, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if was_on:
            gc.enable()


def leave() -> None:
    """The process ends: its memory goes back to the system as it is."""
    gc.freeze()
