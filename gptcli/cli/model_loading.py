"""Load models, with progress and notices on the terminal."""

from typing import TYPE_CHECKING

from gptcli.cli.render import console, progress
from gptcli.core.escape import shown
from gptcli.generation.model_spec import ModelSpec

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target
    from gptcli.generation.llm import LLM
    from gptcli.model.gpt import GPTModel


def find_model(spec: ModelSpec, *, need_weights: bool = True, option: str = "model") -> "Target":
    """Resolve the model's files, downloading what is missing; errors name `option`."""
    from gptcli.checkpoint.resolve import resolve

    with progress.downloads() as report:
        return resolve(
            spec.model,
            spec.config,
            spec.weights,
            offline=spec.offline,
            need_weights=need_weights,
            progress=report,
            option=option,
        )


def open_model(spec: ModelSpec, *, option: str = "model") -> "LLM":
    """Open the model without reading its weights; errors name `option`."""
    from gptcli.generation.llm import LLM

    return LLM.of_target(spec, find_model(spec, option=option))


def load_weights(llm: "LLM") -> "LLM":
    """Read the model's weights and print its notices → the same model."""
    with console.waiting(f"loading {shown(llm.name, 60)} ..."):
        assert llm.engine
    for line in llm.notices:
        console.notice(line)
    return llm


def load_book_model(llm: "LLM") -> "GPTModel":
    """The model as the book's network in PyTorch; quantised weights become floats."""
    spec = llm.spec
    with console.waiting(f"loading {shown(llm.name, 60)} ..."):
        from gptcli.checkpoint.load import load_model
        from gptcli.engine.pytorch import torch_on

        torch_on(spec.device, spec.threads)
        model = load_model(
            llm.target,
            llm.checkpoint,
            seed=spec.seed,
            device=spec.device,
            check_finite=spec.check_finite,
        )
    for line in llm.notices:
        console.notice(line)
    return model
