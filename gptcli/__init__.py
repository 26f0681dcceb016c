"""gptcli writes text with a GPT.

    import gptcli

    model = gptcli.load("gpt2")
    for text in gptcli.generate(model, "Once upon a time", seed=1):
        print(text, end="", flush=True)

Each name loads what it needs when it is first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gptcli.version import __version__

if TYPE_CHECKING:
    from gptcli.core.errors import GptcliError
    from gptcli.generation.llm import Loaded, generate, load
    from gptcli.model.config import GPTConfig
    from gptcli.model.gpt import GPTModel
    from gptcli.sampling.params import SamplingParams

_HOMES = {
    "GPTConfig": "gptcli.model.config",
    "GPTModel": "gptcli.model.gpt",
    "GptcliError": "gptcli.core.errors",
    "Loaded": "gptcli.generation.llm",
    "SamplingParams": "gptcli.sampling.params",
    "generate": "gptcli.generation.llm",
    "load": "gptcli.generation.llm",
}

__all__ = [
    "GPTConfig",
    "GPTModel",
    "GptcliError",
    "Loaded",
    "SamplingParams",
    "__version__",
    "generate",
    "load",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptcli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
