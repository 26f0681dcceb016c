"""The engines that are compared, each in its best setting, behind three calls.

Run as `python engines.py ENGINE WIDTH DIRECTORY THREADS` it is a worker: a line of JSON on
standard input is a call, a line on standard output its answer. An engine has a process of its own,
for two of them cannot share one OpenMP.
"""

import json
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import weights

ROOT = Path(__file__).parent.parent.parent
Ids = list[int]


class Engine(Protocol):
    """What a worker can do."""

    def write(self, prompt: Ids, new_tokens: int) -> Ids:
        """Greedy, exactly so many tokens."""

    def batch(self, prompts: list[Ids], new_tokens: list[int]) -> int:
        """All prompts, each with so many new tokens → how many tokens were asked for."""


class OwnFile:
    """An engine that reads the Hugging Face directory as it is."""

    @staticmethod
    def prepare(source: Path, width: str) -> Path:
        """The files to load; made where they do not exist yet."""
        return source


class Gptcli(OwnFile):
    """This package, through the loops of `generate` and `batch`."""

    widths = ("float32", "float16", "bfloat16", "int8", "int4")

    def __init__(self, source: Path, width: str, threads: int) -> None:
        sys.path.insert(0, str(ROOT))  # from a checkout too
        from gptcli.generation.llm import LLM
        from gptcli.generation.model_spec import ModelSpec

        named = {"quantize": width} if width in ("int8", "int4") else {"dtype": width}
        spec = ModelSpec(model=str(source), threads=threads, **named)
        self.model = LLM.load(spec).engine

    def write(self, prompt: Ids, new_tokens: int) -> Ids:
        """Greedy."""
        from gptcli.generation.decode import Generation, Prompt
        from gptcli.sampling.params import SamplingParams

        params = SamplingParams(max_new_tokens=new_tokens, temperature=0.0)
        read = Prompt(self.model, prompt, new_tokens)
        return [token.id for token in Generation(read, params, seed=0)]

    def batch(self, prompts: list[Ids], new_tokens: list[int], most: int = 32) -> int:
        """So many rows at most; one that ends makes room for the next."""
        from gptcli.generation.scheduler import Job, Scheduler
        from gptcli.generation.sequence import Sequence as Text
        from gptcli.sampling.params import SamplingParams

        context = self.model.config.context_length
        jobs = (
            Job(
                Text(
                    prompt=prompt,
                    params=SamplingParams(max_new_tokens=count, temperature=0.0),
                    context=context,
                    seed=0,
                )
            )
            for prompt, count in zip(prompts, new_tokens, strict=True)
        )
        rows = Scheduler(self.model, min(most, len(prompts)))
        return sum(len(job.sequence.ids) for job in rows.run(jobs))


class Transformers(OwnFile):
    """`generate` of transformers, batches padded on the left."""

    widths = ("float32", "bfloat16")

    def __init__(self, source: Path, width: str, threads: int) -> None:
        import torch
        from transformers import GPT2LMHeadModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.model = GPT2LMHeadModel.from_pretrained(source, dtype=getattr(torch, width)).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def write(self, prompt: Ids, new_tokens: int) -> Ids:
        """Greedy."""
        return self._generate([prompt], new_tokens)[0]

    def batch(self, prompts: list[Ids], new_tokens: list[int]) -> int:
        """Groups of 32 that end at about the same length."""
        for group in groups(new_tokens):
            self._generate([prompts[n] for n in group], max(new_tokens[n] for n in group))
        return sum(new_tokens)

    def _generate(self, prompts: list[Ids], new_tokens: int) -> list[Ids]:
        import torch

        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        made = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False
        )
        return [row[longest:] for row in made.tolist()]


class LlamaCpp:
    """llama.cpp through its Python binding, without its sampler: logits and argmax."""

    widths = ("F32", "F16", "BF16", "Q8_0", "Q4_0")

    @staticmethod
    def prepare(source: Path, width: str) -> Path:
        """A GGUF file."""
        return weights.gguf(source, width)

    def __init__(self, source: Path, width: str, threads: int) -> None:
        from llama_cpp import Llama

        self.model = Llama(
            str(source),
            n_ctx=1024,
            n_batch=1024,
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def write(self, prompt: Ids, new_tokens: int) -> Ids:
        """Greedy."""
        import numpy as np

        self.model.reset()
        self.model.eval(prompt)
        made: Ids = []
        while True:
            logits = self.model._ctx.get_logits()
            made.append(int(np.ctypeslib.as_array(logits, (self.model.n_vocab(),)).argmax()))
            if len(made) == new_tokens:
                return made
            self.model.eval(made[-1:])

    def batch(self, prompts: list[Ids], new_tokens: list[int]) -> int:
        """One after the other."""
        for prompt, count in zip(prompts, new_tokens, strict=True):
            self.write(prompt, count)
        return sum(new_tokens)


class CTranslate2:
    """CTranslate2's generator."""

    widths = ("float32", "int8")

    @staticmethod
    def prepare(source: Path, width: str) -> Path:
        """A converted directory."""
        return weights.ctranslate2(source, width)

    def __init__(self, source: Path, width: str, threads: int) -> None:
        import ctranslate2

        self.model = ctranslate2.Generator(str(source), compute_type=width, intra_threads=threads)

    def write(self, prompt: Ids, new_tokens: int) -> Ids:
        """Greedy."""
        return self._generate([prompt], new_tokens)[0]

    def batch(self, prompts: list[Ids], new_tokens: list[int]) -> int:
        """Groups of 32 that end at about the same length."""
        for group in groups(new_tokens):
            self._generate([prompts[n] for n in group], max(new_tokens[n] for n in group))
        return sum(new_tokens)

    def _generate(self, prompts: list[Ids], new_tokens: int) -> list[Ids]:
        made = self.model.generate_batch(
            [[f"t{id}" for id in prompt] for prompt in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in made]


class OpenVino:
    """OpenVINO GenAI; `float32` files are computed in what it thinks best, often bfloat16."""

    widths = ("fp32", "int8", "int4")

    @staticmethod
    def prepare(source: Path, width: str) -> Path:
        """An exported directory; OPTIMUM_CLI names the program where it is not on the path."""
        return weights.openvino(source, width, os.environ.get("OPTIMUM_CLI", "optimum-cli"))

    def __init__(self, source: Path, width: str, threads: int) -> None:
        import openvino_genai

        self.model = openvino_genai.LLMPipeline(str(source), "CPU", INFERENCE_NUM_THREADS=threads)

    def write(self, prompt: Ids, new_tokens: int) -> Ids:
        """Greedy."""
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        made = self.model.generate(openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
        return list(made.tokens[0])

    def batch(self, prompts: list[Ids], new_tokens: list[int]) -> int:
        """One after the other."""
        for prompt, count in zip(prompts, new_tokens, strict=True):
            self.write(prompt, count)
        return sum(new_tokens)


ENGINES: dict[str, Any] = {
    "gptcli": Gptcli,
    "llama.cpp": LlamaCpp,
    "CTranslate2": CTranslate2,
    "OpenVINO": OpenVino,
    "transformers": Transformers,
}


def groups(new_tokens: Sequence[int], size: int = 32) -> list[list[int]]:
    """The numbers of the prompts, those with like lengths together."""
    order = iter(sorted(range(len(new_tokens)), key=new_tokens.__getitem__))
    return list(iter(lambda: list(islice(order, size)), []))


def answer(engine: Engine, call: str, *arguments: Any) -> dict[str, Any]:
    """The result of a call and its seconds."""
    start = perf_counter()
    result = getattr(engine, call)(*arguments)
    return {"seconds": perf_counter() - start, "result": result}


def main() -> None:
    """Load an engine, then answer calls until standard input ends."""
    name, width, source, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    os.dup2(2, 1)
    try:
        files = ENGINES[name].prepare(Path(source), width)
        start = perf_counter()
        engine = ENGINES[name](files, width, int(threads))
    except Exception as problem:  # noqa: BLE001  # a peer may be missing or refuse a width
        said = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
        print(json.dumps({"problem": said}), file=answers, flush=True)
        return
    print(json.dumps({"loaded": perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, *json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
