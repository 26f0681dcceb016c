"""What rounding costs: the perplexity of a text under the same weights in float32, int8 and int4.

`python tests/benchmarks/quality.py` measures the built-in model on the stories it never saw.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from gptcli.checkpoint.resolve import Target, resolve
from gptcli.engine.interface import Engine, Span
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.dtypes import Width
from gptcli.tokenizer.tokenizer import load_tokenizer
from gptcli.train.evaluate import ValidationText, total_nats
from gptcli.train.text_files import read_text

ROOT = Path(__file__).parent.parent.parent
TEXT = ROOT.parent / "shared" / "data" / "tinystories" / "valid.txt.gz"
WIDTHS: tuple[Width | None, ...] = (None, "int8", "int4")


def perplexities(
    target: Target,
    text: Path,
    widths: Sequence[Width | None] = WIDTHS,
    documents: int | None = None,
) -> list[float]:
    """Of the first `documents` of a text, one for each width; None is float32."""
    assert target.config is not None
    config = target.config
    tokenizer = load_tokenizer(config.tokenizer, target.directory, vocab_size=config.vocab_size)
    assert tokenizer.eos_id is not None
    read = read_text(text, fold_quotes=True).documents[:documents]
    ids = [np.array(tokenizer.encode(one), np.int32) for one in read]
    held = ValidationText(ids, sum(len(one.encode()) for one in read))
    found = []
    for width in widths:
        engine = LLM.of_target(ModelSpec(dtype="float32", quantize=width), target).engine
        needed = total_nats(_logits_of(engine), held, tokenizer.eos_id, config.context_length)
        found.append(math.exp(needed / held.targets))
    return found


def _logits_of(engine: Engine) -> Callable[[torch.Tensor], torch.Tensor]:
    def logits_of(ids: torch.Tensor) -> torch.Tensor:
        rows = ids.tolist()
        spans = [Span(engine.new_cache(len(row)), row, len(row)) for row in rows]
        return torch.from_numpy(engine.step(spans).copy()).unflatten(0, ids.shape)

    return logits_of


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", help="as for gptcli generate; without it the built-in one")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--documents", type=int, help="only the first of the text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = perplexities(resolve(asked.model), asked.text, documents=asked.documents)
    print("| weights | perplexity | more |\n| --- | --: | --: |")
    for width, one in zip(WIDTHS, found, strict=True):
        print(f"| {width or 'float32'} | {one:.4f} | {one / found[0] - 1:+.3%} |")


if __name__ == "__main__":
    main()
