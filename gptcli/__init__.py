"""gptcli writes text with a GPT.

    import gptcli

    llm = gptcli.load("gpt2")
    for piece in llm.stream("Once upon a time", seed=1):
        print(piece, end="", flush=True)

Each name loads what it needs when it is first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gptcli.version import __version__

if TYPE_CHECKING:
    from gptcli.core.errors import GptcliError
    from gptcli.generation.llm import LLM, load
    from gptcli.generation.model_spec import ModelSpec
    from gptcli.model.config import GPTConfig
    from gptcli.model.gpt import GPTModel
    from gptcli.sampling.params import SamplingParams

_HOMES = {
    "GPTConfig": "gptcli.model.config",
    "GPTModel": "gptcli.model.gpt",
    "GptcliError": "gptcli.core.errors",
    "LLM": "gptcli.generation.llm",
    "ModelSpec": "gptcli.generation.model_spec",
    "SamplingParams": "gptcli.sampling.params",
    "load": "gptcli.generation.llm",
}

__all__ = [
    "LLM",
    "GPTConfig",
    "GPTModel",
    "GptcliError",
    "ModelSpec",
    "SamplingParams",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptcli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
