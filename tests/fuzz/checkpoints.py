"""A mutation fuzzer for checkpoints: header, config and weights, up to the native engine's logits.

    python tests/fuzz/checkpoints.py --seconds 600     # on sanitized kernels: see docs/engine.md
    python tests/fuzz/checkpoints.py --case 1234       # one case again, in this process

A case is a random small model in one of the file layouts, most with something damaged. It must end
in logits or in a `GptcliError` of printable text. Anything else is a finding: another exception, a
warning, a crash, more than 10 seconds. Cases run in a worker process, and each follows from its
number alone.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gptcli.checkpoint.layouts import expected_shapes
from gptcli.checkpoint.quantized import metadata, stored_tensors
from gptcli.core.errors import GptcliError
from gptcli.engine.interface import Span
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.config import ACTIVATIONS, parse_config

SECONDS_A_CASE = 10
ITEM = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "U8": 1}

Json = dict[str, Any]
Tensors = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name

SIZES = [0, 1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 255, 256, 1 << 15, 1 << 16, 1 << 24, (1 << 24) + 1]
SIZES += [(1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30]
JUNK: list[object] = [*SIZES, -1, -(1 << 63), 0.5, 1e308, -0.0, 1e-320, 5e-324, True, False, None]
JUNK += ["", "F32", "x" * 600, "\0", "\x1b[31m", "\ud800", "é", [], {}, [[]], {"a": {}}, [1] * 9]
DTYPES = ["F32", "F16", "BF16", "F64", "I8", "U8", "BOOL", "I64", "F8_E4M3", "F4", "C64", "f32", ""]
NAMES = ["", "wte.weight", "h.0.attn.c_attn.weight", "h.99999.ln_1.bias", "h.1000000.ln_1.bias"]
NAMES += ["lm_head.weight", "out_head.weight", "tok_emb.weight.values", "trf_blocks.0.att.mask"]
NAMES += ["__metadata__", "a\nb", "\x1b[2J", "\ud800", "module." * 50 + "wte.weight", "n" * 513]


class Case:
    """Files of one model, damaged or not.

    Attributes:
        number: what it follows from.
        how: fields of the `ModelSpec` besides the model.
        files: contents by name.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.draw = draw = Random(number)
        self.how: Json = {
            "dtype": draw.choice(["auto", "auto", "float32", "bfloat16", "float16"]),
            "threads": draw.choice([1, 2, 3]),
            "check_finite": draw.random() < 0.6,
            "engine": "native",
        }
        if draw.random() < 0.3:
            self.how |= {"quantize": draw.choice(["int8", "int4"]), "dtype": "auto"}
        self.files: dict[str, bytes] = {}
        layout = draw.choice(["book", "huggingface", "nanogpt", "int8", "int4"])
        self._write(layout, *_model(layout, draw))

    def run(self, directory: Path) -> None:
        """Load the files from a directory and compute a few steps.

        Raises:
            GptcliError: as a user would see it. Anything else is a finding.
        """
        for name, content in self.files.items():
            (directory / name).write_bytes(content)
        llm = LLM.open(ModelSpec(model=str(directory), **self.how))
        config, engine, draw = llm.config, llm.engine, self.draw
        context = min(config.context_length, 40)
        caches = [engine.new_cache(context) for _ in range(draw.randint(1, 3))]
        for _ in range(3):
            spans = []
            for cache in caches:
                count = draw.randint(0, context - cache.length)
                ids = [draw.randrange(config.vocab_size) for _ in range(count)]
                spans.append(Span(cache, ids, n_logits=draw.randint(0, count)))
            logits = engine.step(spans)
            assert logits.shape == (sum(span.n_logits for span in spans), config.vocab_size)

    def _write(self, layout: str, config: Json, tensors: Tensors) -> None:
        draw = self.draw
        if draw.random() < 0.25:
            _damage_config(config, draw)
        name = draw.choice(["config.json", "config.yaml"])
        text = _damaged_text(json.dumps(config).encode(), draw, 0.05)  # JSON is YAML, too
        self.files[name] = text
        extra = {"format": "pt"} if layout not in {"int8", "int4"} else metadata(layout)  # type: ignore[arg-type]
        if len(tensors) > 1 and draw.random() < 0.15:
            self._write_shards(tensors, extra)
        else:
            self.files["model.safetensors"] = _weights(tensors, extra, draw)

    def _write_shards(self, tensors: Tensors, extra: Json) -> None:
        draw, names = self.draw, list(tensors)
        cut = draw.randrange(1, len(names))
        shards = {"a.safetensors": names[:cut], "b.safetensors": names[cut:]}
        index: Json = {"metadata": {}, "weight_map": {}}
        for shard, held in shards.items():
            index["weight_map"] |= dict.fromkeys(held, shard)
            self.files[shard] = _weights({name: tensors[name] for name in held}, extra, draw)
        if draw.random() < 0.3:
            odd: list[object] = [*JUNK, "../a.safetensors", "c.safetensors", "b.safetensors"]
            index["weight_map"][draw.choice([*names, *NAMES])] = draw.choice(odd)
        text = _damaged_text(json.dumps(index).encode(), draw, 0.1)
        self.files["model.safetensors.index.json"] = text


def _model(layout: str, draw: Random) -> tuple[Json, Tensors]:
    """A valid model of odd sizes: its config, and the tensors of its file."""
    heads = draw.randint(1, 4)
    width = 32 * draw.randint(1, 2) if layout == "int4" else heads * draw.randint(1, 20)
    heads = heads if width % heads == 0 else 1
    inner = draw.choice(
        [None, 32 * draw.randint(1, 4) if layout == "int4" else draw.randint(1, 90)]
    )
    has_biases = layout != "nanogpt" or draw.random() < 0.5
    config: Json = {
        "vocab_size": draw.randint(1, 300),
        "context_length": draw.randint(1, 50),
        "emb_dim": width,
        "n_heads": heads,
        "n_layers": draw.randint(1, 3),
        "drop_rate": 0.0,
        "qkv_bias": layout == "huggingface" or (has_biases and layout == "nanogpt"),
        "tie_weights": draw.random() < 0.5,
        "n_inner": inner,
        "activation": draw.choice(ACTIVATIONS),
        "layer_norm_epsilon": draw.choice([1e-5, 1e-12, 1e-45, 1e-300, 0.99]),
        "scale_attn_weights": draw.random() < 0.8,
        "scale_attn_by_inverse_layer_idx": draw.random() < 0.2,
        "bias": has_biases,
    }
    shapes = expected_shapes(parse_config(config, "config"))
    if config["tie_weights"]:
        del shapes["out_head.weight"]
    if layout in {"int8", "int4"}:
        stored = stored_tensors(shapes, layout)  # type: ignore[arg-type]
        return config, {n: (draw.choice(t.dtypes), t.shape) for n, t in stored.items()}
    dtype = draw.choice(["F32", "F32", "F16", "BF16", "F64"])
    if layout == "book":
        return config, {name: (dtype, shape) for name, shape in shapes.items()}
    return config, {n: (dtype, s) for n, s in _gpt2(config, layout == "huggingface")}


def _gpt2(config: Json, transposed: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as transformers and nanoGPT write them."""
    E = config["emb_dim"]
    inner = config["n_inner"] or 4 * E
    yield "wte.weight", (config["vocab_size"], E)
    yield "wpe.weight", (config["context_length"], E)
    matrices = {"attn.c_attn": (E, 3 * E), "attn.c_proj": (E, E)}
    matrices |= {"mlp.c_fc": (E, inner), "mlp.c_proj": (inner, E)}
    norms = [f"h.{n}.ln_{k}" for n in range(config["n_layers"]) for k in (1, 2)]
    for n in range(config["n_layers"]):
        for name, (ins, outs) in matrices.items():
            yield f"h.{n}.{name}.weight", (ins, outs) if transposed else (outs, ins)
            if config["bias"]:
                yield f"h.{n}.{name}.bias", (outs,)
    for norm in [*norms, "ln_f"]:
        yield f"{norm}.weight", (E,)
        if config["bias"]:
            yield f"{norm}.bias", (E,)
    if not config["tie_weights"]:
        yield "lm_head.weight", (config["vocab_size"], E)


def _damage_config(config: Json, draw: Random) -> None:
    for _ in range(draw.randint(1, 2)):
        others = ["n_embd", "model_type", "tokenizer", "block_size", "model_args"]
        key = draw.choice([*config, *others])
        if draw.random() < 0.1:
            config.pop(key, None)
        else:
            config[key] = draw.choice(JUNK)


def _weights(tensors: Tensors, extra: Json, draw: Random) -> bytes:
    """A safetensors file of these tensors, perhaps damaged."""
    tensors = dict(tensors)
    if draw.random() < 0.2:  # a consistent header, of another model
        name = draw.choice([*tensors])
        dtype, shape = tensors[name]
        if draw.random() < 0.5:
            dtype = draw.choice([*ITEM])
        else:
            near = tuple(max(0, n + draw.choice([-1, 0, 1])) for n in shape)
            shape = near[:: draw.choice([1, -1])]
        tensors[draw.choice([name, *NAMES[1:9]])] = dtype, shape
    header: Json = {"__metadata__": dict(extra)}
    data, finite = [], draw.random() < 0.8
    end = 0
    for name, (dtype, shape) in tensors.items():
        data.append(_values(dtype, shape, draw.getrandbits(32), finite))
        offsets = [end, end := end + len(data[-1])]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
    if draw.random() < 0.3:
        for _ in range(draw.randint(1, 3)):
            _damage_header(header, draw)
    text = _damaged_text(json.dumps(header).encode(), draw, 0.08)
    length = len(text)
    if draw.random() < 0.04:
        length = draw.choice([*SIZES[:-2], length - 1, length + 1]) % (1 << 64)
    return _damaged_text(length.to_bytes(8, "little") + text + b"".join(data), draw, 0.1)


def _values(dtype: str, shape: tuple[int, ...], seed: int, finite: bool) -> bytes:
    """A tensor's bytes: small numbers, or anything."""
    random = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=object))
    if not finite or dtype in {"I8", "U8"}:
        return random.bytes(count * ITEM[dtype])
    values = random.standard_normal(count).astype("f8" if dtype == "F64" else "f4")
    if dtype == "BF16":
        return (values.view("u4") >> 16).astype("u2").tobytes()
    return values.astype("f2" if dtype == "F16" else values.dtype).tobytes()


def _damage_header(header: Json, draw: Random) -> None:
    name = draw.choice([*header])
    entry = header[name]
    if draw.random() < 0.15 or not isinstance(entry, dict):
        header[draw.choice([name, *NAMES])] = draw.choice(JUNK)
    elif draw.random() < 0.2:
        header[draw.choice(NAMES)] = header.pop(name)
    elif name == "__metadata__":
        words = ["format", "width", "gptcli.quantized/1", "gptcli.quantized/2", "int8", "int4"]
        entry[draw.choice(words)] = draw.choice([*words, *JUNK])
    else:
        key = draw.choice(["dtype", "shape", "data_offsets"])
        value = entry.get(key)
        if key == "dtype":
            entry[key] = draw.choice([*DTYPES, *JUNK])
        elif isinstance(value, list) and value and draw.random() < 0.8:
            at = draw.randrange(len(value))
            near = value[at] + draw.choice([-1, 1]) if isinstance(value[at], int) else 0
            value[at] = draw.choice([near, near, draw.choice(JUNK)])
        else:
            entry[key] = draw.choice(JUNK)


def _damaged_text(data: bytes, draw: Random, chance: float) -> bytes:
    """Bytes with, by this chance, some of them lost, repeated, replaced or added."""
    if draw.random() >= chance:
        return data
    at, count = draw.randrange(len(data) + 1), draw.choice([1, 1, 2, 8, 100])
    odd = [b"", b"\0", b"\xff", b"{", b"]", b"[" * 5000, b"-", b'"', b"9" * 5000, b"\n"]
    new = draw.choice(odd)
    return draw.choice(
        [
            data[:at],
            data[:at] + data[at + count :],
            data[:at] + data[at : at + count] + data[at:],
            data[:at] + new + data[at + len(new) :],
            data[:at] + draw.randbytes(count) + data[at + count :],
            data + new,
        ]
    )


def outcome(case: Case) -> str:
    """`computed` or `refused`; of a finding, all that is known."""
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            case.run(Path(directory))
        except GptcliError as error:
            text = str(error)
            lines = text.split("\n")
            if all(map(str.isprintable, lines)) and len(lines) <= 20 and error.problem:
                return "refused"
            return f"not clear: {text!r}"
        except Exception:  # noqa: BLE001  # a finding
            return traceback.format_exc()
    return "computed"


def _work(first: int, pipe: Connection) -> None:
    number = first
    while True:
        pipe.send(outcome(Case(number)))
        number += 1


def fuzz(first: int, cases: int, seconds: float) -> int:
    """Run so many cases, or for so long; the number of findings, which are printed."""
    context = multiprocessing.get_context("spawn")
    end, number, outcomes = time.monotonic() + seconds, first, Counter[str]()
    while number < first + cases and time.monotonic() < end:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(number, theirs), daemon=True)
        worker.start()
        theirs.close()
        patience = 60 + SECONDS_A_CASE  # until it has imported what it needs
        while number < first + cases and time.monotonic() < end:
            if not ours.poll(patience):
                found = f"took more than {SECONDS_A_CASE} s"
            else:
                try:
                    found = ours.recv()
                except EOFError:
                    worker.join()
                    found = f"the process ended with {worker.exitcode}"
            is_finding = found not in {"computed", "refused"}
            outcomes["finding" if is_finding else found] += 1
            if is_finding:
                print(f"case {number}: {found}", flush=True)
            number, patience = number + 1, SECONDS_A_CASE
            if found.startswith(("took", "the process")):
                break
        worker.kill()
        worker.join()
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items()))
    print(f"{number - first:,} cases from {first}: {counts}")
    return outcomes["finding"]


def main() -> int:
    """Exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=1 << 60)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--case", type=int, help="run this case alone, in this process")
    chosen = parser.parse_args()
    if chosen.case is not None:
        print(outcome(Case(chosen.case)))
        return 0
    return int(fuzz(chosen.first, chosen.cases, chosen.seconds) > 0)


if __name__ == "__main__":
    sys.exit(main())
