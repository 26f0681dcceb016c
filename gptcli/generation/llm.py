"""The public API: load a model, stream text from it.

    llm = LLM.load(ModelSpec(model="gpt2"))
    for piece in llm.stream("Once upon a time", seed=1):
        print(piece, end="", flush=True)

The commands use it, too. A checkpoint is opened once; PyTorch is imported only if it computes.
"""

import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from gptcli.checkpoint.presets import recommended_sampling
from gptcli.checkpoint.quantized import refuse_other_dtype
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.checkpoint.weights import Checkpoint, Weights, open_checkpoint
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import described, shown
from gptcli.core.options import check_value, make
from gptcli.engine.interface import Engine
from gptcli.engine.library import available_threads, why_unavailable
from gptcli.generation.beam_search import BeamTokens, beam_search
from gptcli.generation.decode import Generation, Prompt
from gptcli.generation.model_spec import ModelSpec
from gptcli.generation.sequence import Overflow
from gptcli.generation.speculative import Speculation
from gptcli.generation.text_options import KeepStop, Seed, Stop
from gptcli.generation.text_options import Overflow as TextOverflow
from gptcli.generation.text_stream import Completion
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype
from gptcli.sampling.constraint import matcher
from gptcli.sampling.params import SamplingParams
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer


class LLM:
    """A model and its tokenizer.

    Attributes:
        spec: which model, and how it computes.
        target: the model's files.
        checkpoint: its open weights; None for an untrained model.
    """

    def __init__(self, spec: ModelSpec, target: Target, checkpoint: Checkpoint | None) -> None:
        self.spec, self.target, self.checkpoint = spec, target, checkpoint

    @classmethod
    def load(cls, spec: ModelSpec, progress: Callable[..., object] | None = None) -> "LLM":
        """Load a model, ready to compute; `progress` is called during downloads.

        Raises:
            GptcliError: an error that a user can correct, in one line.
        """
        llm = cls.open(spec, progress)
        assert llm.tokenizer  # can fail, so it comes before the weights
        assert llm.engine
        return llm

    @classmethod
    def open(cls, spec: ModelSpec, progress: Callable[..., object] | None = None) -> "LLM":
        """Open a model; `engine` reads the weights when it is first used.

        Raises:
            GptcliError: as `load`.
        """
        target = resolve(
            spec.model, spec.config, spec.weights, offline=spec.offline, progress=progress
        )
        return cls.of_target(spec, target)

    @classmethod
    def of_target(cls, spec: ModelSpec, target: Target) -> "LLM":
        """Open a model whose files are resolved already."""
        checkpoint = None
        if target.weights is not None:
            checkpoint = open_checkpoint(target.weights, target.config)
        config = checkpoint.config if checkpoint else target.config
        if config is None:
            raise InputError(
                shown(target.name), "no config beside the weights", "Name its `config`"
            )
        if checkpoint and checkpoint.width:
            dtype = "float32" if spec.dtype == "auto" else spec.dtype
            refuse_other_dtype(checkpoint.width, spec.quantize, dtype, spec.device)
        return cls(spec, target, checkpoint)

    @property
    def name(self) -> str:
        """The name by which the user called the model."""
        return self.target.name

    @property
    def config(self) -> GPTConfig:
        """The model's config, as its files give it."""
        config = self.checkpoint.config if self.checkpoint else self.target.config
        assert config is not None
        return config

    @property
    def is_native(self) -> bool:
        """Whether the native engine computes, with the same bits on every machine."""
        if self.spec.engine == "auto":
            return self.spec.device == "cpu" and why_unavailable() is None
        return self.spec.engine == "native"

    @property
    def width(self) -> str | None:
        """int8 or int4 if the weights are quantised, else None."""
        return (self.checkpoint and self.checkpoint.width) or self.spec.quantize

    @property
    def dtype(self) -> FloatDtype:
        """The dtype of weights that are not quantised."""
        if self.spec.dtype != "auto":
            return self.spec.dtype
        if self.width or self.checkpoint is None:
            return "float32"
        # On most CPUs PyTorch is slow in half precision, and it rounds activations to it.
        keeps = self.is_native or self.spec.device != "cpu"
        return self.checkpoint.dtype if keeps else "float32"

    @property
    def weight_dtype(self) -> str:
        """The weights' dtype, int8 or int4 if they are quantised: a text depends on it."""
        return self.width or self.dtype

    @property
    def threads(self) -> int:
        """Number of compute threads."""
        return self.spec.threads or available_threads()

    @property
    def engine_name(self) -> str:
        """The engine's name for display: `native, avx512` or `PyTorch 2.13.0`."""
        if self.is_native:
            from gptcli.engine.library import choose_build  # noqa: PLC0415

            return f"native kernels, {choose_build().name}"
        import torch  # noqa: PLC0415

        return f"PyTorch {torch.__version__}"

    @property
    def notices(self) -> list[str]:
        """What a user should know about the files and the engine, a line each."""
        is_read = "tokenizer" in self.__dict__  # bench computes ids alone and reads none
        found = list(self.tokenizer.notices) if is_read else []
        if self.checkpoint is None:
            found.append(
                f"untrained model, initialised from seed {self.spec.seed or 0}: its text is noise"
            )
        else:
            path = shown(self.checkpoint.path)
            found += [f"{path}: {line}" for line in self.checkpoint.layout.notices]
        if self.spec.engine == "auto" and self.spec.device == "cpu" and not self.is_native:
            found.append(f"PyTorch computes, slower: {why_unavailable()}")
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read at first use.

        Raises:
            InputError, UsageError: there is none, or it cannot be read.
        """
        config = self.config
        return load_tokenizer(
            config.tokenizer,
            self.target.directory,
            vocab_size=config.vocab_size,
            offline=self.spec.offline,
        )

    @cached_property
    def engine(self) -> Engine:
        """The engine; the weights are read at first use.

        Raises:
            GptcliError: the weights are damaged, or there is no memory or no library for them.
        """
        return self._native_engine() if self.is_native else self._torch_engine()

    def prompt_ids(self, prompt: str | Sequence[int], *, special: bool = False) -> list[int]:
        """A prompt's token ids; an empty prompt is the beginning-of-text or end-of-text token.

        Args:
            prompt: text, or token ids.
            special: whether special tokens spelled in the text are read as such.

        Raises:
            UsageError: it has no tokens, or ids outside the vocabulary.
        """
        tokenizer = self.tokenizer
        if not isinstance(prompt, str):
            _check_ids(prompt)
            tokenizer.require_known(prompt, "prompt_ids")
            return list(prompt)
        if ids := tokenizer.encode_prompt(prompt, special=special):
            return ids
        if tokenizer.eos_id is None:
            raise UsageError("allow_empty", "the tokenizer has no end-of-text token to begin at")
        return [tokenizer.eos_id]

    def prefill(
        self, prompt: str | Sequence[int], max_new_tokens: int, overflow: Overflow = "stop"
    ) -> Prompt:
        """Compute a prompt once, for several calls of `stream`."""
        return Prompt(self.engine, self.prompt_ids(prompt), max_new_tokens, overflow)

    def stream(
        self,
        prompt: str | Sequence[int] | Prompt,
        params: SamplingParams | None = None,
        *,
        seed: int | None = None,
        sample: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        overflow: Overflow = "stop",
        speculation: Speculation | None = None,
        deadline: float | None = None,
        stopped: Callable[[], bool] | None = None,
        logprobs: int | None = None,
        **sampling: Any,
    ) -> Completion:
        """Continue a prompt: iterate over the completion for its pieces, as they are generated.

        Args:
            prompt: text, in which special tokens are ordinary text; or token ids; or the result of
                `prefill`.
            params: how tokens are chosen. Without it, give fields of `SamplingParams` as keywords;
                their defaults are then the model's recommended ones.
            seed: the same seed and params give the same text; None is a fresh seed.
            sample: number of the sample; each has its own draws.
            stop: strings that end the text and are left out of it.
            keep_stop: keep the stop string that ended the text.
            overflow: what happens at the end of the context: "stop", "slide" or "error".
            speculation, deadline, stopped, logprobs: as `Generation` has them.
            **sampling: max_new_tokens, temperature, top_k, ..., instead of `params`.

        Raises:
            GptcliError: an error that a user can correct, now or while iterating.
        """
        if params is None:
            params, spec = make(SamplingParams, **sampling), self.spec
            parts = (spec.config, spec.weights)
            values = recommended_sampling(sampling.__contains__, spec.model, *parts)
            params = params.with_recommended(values)
        elif sampling:
            raise UsageError(next(iter(sampling)), "cannot be used together with `params`")
        for name, annotation, value in (
            ("seed", Seed, seed),
            ("stop", Stop, stop),
            ("keep_stop", KeepStop, keep_stop),
            ("overflow", TextOverflow, overflow),
        ):
            check_value(name, annotation, value)
        if not isinstance(prompt, Prompt):
            prompt = self.prefill(prompt, params.max_new_tokens, overflow)
        generation = Generation(
            prompt,
            params,
            seed=fresh_seed() if seed is None else seed,
            sample=sample,
            eos_ids=self.tokenizer.eos_ids,
            n_vocab=self.tokenizer.n_vocab,
            constraint=matcher(params.constraint, self.tokenizer),
            overflow=overflow,
            speculation=speculation,
            deadline=deadline,
            stopped=stopped,
            logprobs=logprobs,
        )
        return Completion(generation, self.tokenizer, stop, keep_stop, after=prompt.ids)

    def beam_search(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        beams: int,
        *,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
    ) -> list[Completion]:
        """The likeliest completions that a beam search finds, the best first.

        Args:
            prompt: text, or token ids.
            params: lengths, bias, penalties and bans; nothing is drawn.
            beams: how many hypotheses are decoded side by side.
            stop, keep_stop: as `stream` has them; a text is cut there once the search is over.

        Raises:
            GptcliError: an error that a user can correct.
        """
        ids, context = self.prompt_ids(prompt), self.config.context_length
        if len(ids) > context:
            found = f"{len(ids):,} tokens, expected at most {context:,}, the context"
            raise UsageError("prompt", f"too long ({found})")
        tokenizer, start = self.tokenizer, perf_counter()
        found_beams = beam_search(
            self.engine,
            ids,
            params,
            beams,
            eos_ids=tokenizer.eos_ids,
            n_vocab=tokenizer.n_vocab,
        )
        seconds = perf_counter() - start
        return [
            Completion(
                BeamTokens(beam, seconds), tokenizer, stop, keep_stop, score=beam.score, after=ids
            )
            for beam in found_beams
        ]

    def _native_engine(self) -> Engine:
        from gptcli.engine.native import NativeEngine  # noqa: PLC0415

        weights = self._weights()
        width = None if weights.width else self.spec.quantize
        return NativeEngine(weights.config, weights.tensors, threads=self.spec.threads, width=width)

    def _torch_engine(self) -> Engine:
        if self.spec.quantize and not (self.checkpoint and self.checkpoint.width):
            problem = f"{self.spec.quantize} needs the compiled kernels, which do not compute here"
            raise UsageError("quantize", problem, "Leave it out, or use `engine=native`")
        from gptcli.checkpoint.load import load_model  # noqa: PLC0415
        from gptcli.engine.pytorch import TorchEngine, torch_on  # noqa: PLC0415

        torch = torch_on(self.spec.device, self.spec.threads)
        model = load_model(
            self.target,
            self.checkpoint,
            seed=self.spec.seed,
            dtype=getattr(torch, self.dtype),
            device=self.spec.device,
            check_finite=self.spec.check_finite,
        )
        return TorchEngine(model)

    def _weights(self) -> Weights:
        if self.checkpoint is None:
            from gptcli.checkpoint.load import load_model, weights_of  # noqa: PLC0415

            return weights_of(load_model(self.target, seed=self.spec.seed))
        return self.checkpoint.weights(
            self.dtype,
            self.spec.quantize,
            check_finite=self.spec.check_finite,
            threads=self.threads,
        )


def load(
    model: str | None = None,
    *,
    config: str | Path | None = None,
    weights: str | Path | None = None,
    **choices: Any,
) -> LLM:
    """Load a model by the fields of `ModelSpec`; without arguments, the built-in model.

    Raises:
        GptcliError: an error that a user can correct, in one line.
    """
    parts = {"config": config, "weights": weights}
    paths = {name: Path(part) if isinstance(part, str) else part for name, part in parts.items()}
    return LLM.load(make(ModelSpec, model=model, **paths, **choices))


def _check_ids(prompt: object) -> None:
    if not isinstance(prompt, Sequence) or not all(type(id) is int for id in prompt):
        found = described(prompt)
        raise UsageError("prompt", f"must be a text or a list of token ids, got {found}")


def fresh_seed() -> int:
    """A random seed, short enough to be typed again."""
    return secrets.randbits(32)
