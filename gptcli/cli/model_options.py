"""From the options that name a model to the model: what generate, batch and inspect share."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.layouts import recognise
from gptcli.checkpoint.quantized import refuse_other_numbers, stored_width
from gptcli.cli.computing import pytorch
from gptcli.cli.render import console, progress
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Option
from gptcli.generation.model_spec import MACHINE, Dtype, ModelSpec

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target
    from gptcli.engine.fast import FastGPT
    from gptcli.model.config import GPTConfig
    from gptcli.model.gpt import GPTModel
    from gptcli.tokenizer.tokenizer import Tokenizer

_Model = TypeVar("_Model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(ModelSpec):
    """The model that a command is to load, and how it loads it."""

    dtype: Annotated[
        Dtype, Option("Compute dtype; auto: that of the weights, if it is fast.", MACHINE)
    ] = "float32"

    @property
    def numbers(self) -> str:
        """What weights are multiplied as: part of what a text depends on."""
        return self.quantize or self.dtype

    def settled(self, target: "Target") -> "ModelOptions":
        """These options, with the numbers that the weights of a target call for.

        Raises:
            UsageError: weights that are stored quantised, and other numbers than theirs.
            InputError: the weights are damaged.
        """
        stored = stored_width(target.weights)
        if stored is not None:
            dtype = "float32" if self.dtype == "auto" else self.dtype
            refuse_other_numbers(stored, self.quantize, dtype, self.device)
            return replace(self, quantize=stored, dtype="float32")
        if self.dtype != "auto":
            return self
        if self.quantize:
            return replace(self, dtype="float32")
        from gptcli.cli.natural import natural_dtype

        return replace(self, dtype=natural_dtype(target.weights, self.device))

    def target(self, *, need_weights: bool = True, option: str = "model") -> "Target":
        """The files of the model, downloaded if they must be; `option` is what errors name."""
        from gptcli.checkpoint.resolve import resolve

        with progress.downloads() as report:
            return resolve(
                self.model,
                self.config,
                self.weights,
                offline=self.offline,
                need_weights=need_weights,
                progress=report,
                option=option,
            )

    def tokenizer(self, target: "Target", config: "GPTConfig") -> "Tokenizer":
        """The tokenizer that goes with the model; says what is odd in its files."""
        from gptcli.tokenizer.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(
            config.tokenizer, target.directory, vocab_size=config.vocab_size, offline=self.offline
        )
        for line in tokenizer.notices:
            console.notice(line)
        return tokenizer

    def load_fast(self, target: "Target", seed: int, *, single: bool = False) -> "FastGPT":
        """The model arranged for speed, at the width of --quantize or of its weights.

        `single`: for one text at a time, as `gptcli.checkpoint.load.load_fast` has it.
        """
        settled = self.settled(target)

        def loaded(**how: Any) -> "FastGPT":
            from gptcli.checkpoint.load import load_fast

            fast = load_fast(target, settled.quantize, single=single, **how)
            if self.device == "cpu":
                from gptcli.engine.pace import Pace

                fast.pace = Pace()
            return fast

        return settled._loaded(target, seed, loaded)

    def torch(self) -> Any:
        """PyTorch, imported as these options have it.

        Raises:
            UsageError: it does not have the device, or not these numbers there.
        """
        torch = pytorch(self.threads)
        _require(self.device, torch)
        from gptcli.engine.precision import has_float16

        if self.dtype == "float16" and not has_float16(self.device):
            hint = "Use bfloat16 or float32"
            raise UsageError("dtype", "float16 is not computed on this processor", hint)
        return torch

    def load(self, target: "Target", seed: int) -> "GPTModel":
        """The book's model, quantised weights as floats."""

        def loaded(**how: Any) -> "GPTModel":
            from gptcli.checkpoint.load import load_model

            return load_model(target, **how)

        return self.settled(target)._loaded(target, seed, loaded)

    def _loaded(self, target: "Target", seed: int, load: Callable[..., _Model]) -> _Model:
        """Of settled options. This is where torch is imported."""
        with console.waiting(f"loading {shown(target.name, 60)} ..."):
            torch = self.torch()
            model = load(
                seed=seed,
                dtype=getattr(torch, self.dtype),
                device=self.device,
                check_finite=self.check_finite,
            )
        if target.weights is None:
            console.notice(f"untrained model, initialised from seed {seed}: its text is noise")
        else:
            for line in recognise(read_headers(target.weights)).notices:
                console.notice(f"{shown(target.weights)}: {line}")
        return model


def fresh_seed() -> int:
    """A seed for a run that was given none; short enough to type again."""
    return secrets.randbits(32)


def _require(device: str, torch: Any) -> None:
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    kind = device.partition(":")[0]
    if kind in there and not there[kind]():
        problem = f"{device} is not available to this PyTorch"
        raise UsageError("device", problem, "Use `device=cpu`")
