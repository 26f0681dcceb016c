"""Weights in every layout give the oracle's logits; weights that would give others are refused."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gpt2_oracle import SHAPES, book_config, copy_weights, lively_gpt2
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from weight_files import entry, raw, write, zeros

from gptcli.checkpoint import arrays
from gptcli.checkpoint.header import read_headers, stamp_of
from gptcli.checkpoint.layouts import expected_shapes
from gptcli.checkpoint.load import load_model, load_weights, save
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.checkpoint.weights import open_checkpoint
from gptcli.core.errors import InputError, RunError
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import FloatDtype
from gptcli.model.gpt import GPTModel, untrained

Weights = dict[str, Tensor]

ORACLE = lively_gpt2(**SHAPES[1])
CONFIG = book_config(ORACLE)
IDS = torch.randint(0, CONFIG.vocab_size, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[arrays.CHUNK, 200], ids=["whole", "pieces"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tensors in one piece, and in many that divide neither rows nor tensors."""
    monkeypatch.setattr(arrays, "CHUNK", request.param)
    return request.param


def written(directory: Path, weights: Weights, config: GPTConfig | None = CONFIG) -> Target:
    path = directory / "model.safetensors"
    save_file(
        {name: weight.detach().clone().contiguous() for name, weight in weights.items()}, path
    )
    return Target("x", config, None, path, directory)


def huggingface(oracle: GPT2LMHeadModel = ORACLE, prefix: str = "") -> Weights:
    state = oracle.transformer.state_dict()
    return {prefix + name: weight for name, weight in state.items() if ".attn.bias" not in name}


def nanogpt(oracle: GPT2LMHeadModel = ORACLE, outer: str = "") -> Weights:
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = huggingface(oracle, f"{outer}transformer.")
    state = {name: w.T if name.endswith(turned) else w for name, w in state.items()}
    return state | {f"{outer}lm_head.weight": state[f"{outer}transformer.wte.weight"]}


def book(oracle: GPT2LMHeadModel = ORACLE) -> Weights:
    """As the book's own class is saved: a head of its own and mask buffers."""
    masks = torch.triu(torch.ones(oracle.config.n_positions, oracle.config.n_positions), 1)
    names = (f"trf_blocks.{n}.att.mask" for n in range(oracle.config.n_layer))
    return copy_weights(oracle).state_dict() | dict.fromkeys(names, masks.bool())


def hf_masks() -> Weights:
    """As files of old versions are: masks in every block."""
    square = torch.ones(CONFIG.context_length, CONFIG.context_length).tril()[None, None]
    kinds = {"bias": square.to(torch.uint8), "masked_bias": torch.tensor(-1e4)}
    return {f"h.{n}.attn.{k}": v for n in range(CONFIG.n_layers) for k, v in kinds.items()}


def assert_is_oracle(model: GPTModel, oracle: GPT2LMHeadModel = ORACLE) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), oracle(IDS).logits, atol=1e-4, rtol=0)


FORMS: dict[str, Callable[[], Weights]] = {
    "bare": huggingface,
    "prefixed": lambda: huggingface(prefix="transformer."),
    "with head": lambda: huggingface() | {"lm_head.weight": ORACLE.lm_head.weight},
    "with masks": lambda: huggingface() | hf_masks(),
    "nanogpt": nanogpt,
    "nanogpt, compiled": lambda: nanogpt(outer="_orig_mod."),
    "book": book,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("tie", [True, False])
def test_every_layout_gives_the_oracles_logits(
    tmp_path: Path, chunk: int, form: Callable[[], Weights], tie: bool
) -> None:
    model = load_model(written(tmp_path, form(), replace(CONFIG, tie_weights=tie)))
    assert_is_oracle(model)
    assert model.out_head.weight is model.tok_emb.weight
    assert model.config.tie_weights
    assert not model.training
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("size", ["50GB", "30KB"])
def test_a_directory_saved_by_transformers_is_a_model(
    tmp_path: Path, chunk: int, size: str
) -> None:
    ORACLE.save_pretrained(tmp_path, max_shard_size=size)
    target = resolve(str(tmp_path))
    assert (len(read_headers(target.weights or Path())) > 1) == (size == "30KB")
    assert_is_oracle(load_model(target))


def test_a_nanogpt_without_biases_has_zeros_for_them(tmp_path: Path, chunk: int) -> None:
    oracle = lively_gpt2(3, **SHAPES[1])
    for name, parameter in oracle.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.zeros_(parameter)
    weights = {n: w for n, w in nanogpt(oracle).items() if not n.endswith(".bias")}
    model = load_model(written(tmp_path, weights, replace(CONFIG, qkv_bias=False)))
    assert_is_oracle(model, oracle)
    assert model.final_norm.shift.count_nonzero() == 0


def test_a_padded_vocabulary_loads_by_its_own_size(tmp_path: Path) -> None:
    weights = nanogpt()
    padded = torch.cat([weights["transformer.wte.weight"], torch.zeros(31, CONFIG.emb_dim)])
    weights |= {"transformer.wte.weight": padded, "lm_head.weight": padded}
    model = load_model(written(tmp_path, weights, replace(CONFIG, vocab_size=128)))
    logits = model(IDS)[..., : CONFIG.vocab_size]
    torch.testing.assert_close(logits, ORACLE(IDS).logits, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="vocab_size: the file has 128, the config says 97"):
        load_model(written(tmp_path, weights))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("form", ["with head", "nanogpt", "book"])
def test_a_head_that_differs_is_used_whatever_the_config_says(
    tmp_path: Path, form: str, tie: bool
) -> None:
    weights = FORMS[form]()
    (head,) = (name for name in weights if "head" in name)
    changed = weights[head].clone()
    changed[-1, -1] += 1e-3
    model = load_model(
        written(tmp_path, weights | {head: changed}, replace(CONFIG, tie_weights=tie))
    )
    assert not model.config.tie_weights
    assert torch.equal(model.out_head.weight, changed)
    assert torch.equal(model.tok_emb.weight, ORACLE.transformer.wte.weight)


def test_a_head_of_another_dtype_is_another_head(tmp_path: Path) -> None:
    weights = FORMS["with head"]()
    model = load_model(
        written(tmp_path, weights | {"lm_head.weight": ORACLE.lm_head.weight.half()})
    )
    assert torch.equal(model.out_head.weight, ORACLE.lm_head.weight.half().float())
    assert not model.config.tie_weights


def test_a_book_file_needs_its_config_to_say_that_it_has_no_head(tmp_path: Path) -> None:
    weights = {name: w for name, w in book().items() if name != "out_head.weight"}
    assert_is_oracle(load_model(written(tmp_path, weights)))
    with pytest.raises(InputError, match=r"1 tensor missing \(out_head.weight\)"):
        load_model(written(tmp_path, weights, replace(CONFIG, tie_weights=False)))


@pytest.mark.parametrize("form", [huggingface, book])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float16])
def test_float_dtypes_convert_as_torch_does(
    tmp_path: Path, chunk: int, form: Callable[[], Weights], stored: torch.dtype, kept: torch.dtype
) -> None:
    weights = {name: weight.to(stored) for name, weight in form().items()}
    model = load_model(written(tmp_path, weights), dtype=kept)
    for name, expected in copy_weights(ORACLE).state_dict().items():
        assert torch.equal(model.state_dict()[name], expected.to(stored).to(kept)), name


def broken(form: Callable[[], Weights], name: str, *values: float, at: int = 0) -> Weights:
    weights = {n: w.detach().clone().contiguous() for n, w in form().items()}
    flat = weights[name].view(-1)
    at %= len(flat)
    flat[at : at + len(values)] = torch.tensor(values).to(flat.dtype)
    return weights


@pytest.mark.parametrize("form", [huggingface, nanogpt, book])
def test_a_nan_in_any_tensor_is_refused(tmp_path: Path, form: Callable[[], Weights]) -> None:
    for name in (name for name in form() if not name.endswith(".mask")):
        weights = broken(form, name, float("nan"), at=-1)
        with pytest.raises(InputError, match=f'tensor "{name}" holds 1 NaN values'):
            load_model(written(tmp_path, weights))


def test_what_is_not_finite_is_counted(tmp_path: Path, chunk: int) -> None:
    nan, inf, name = float("nan"), float("inf"), "h.2.mlp.c_fc.weight"
    weights = broken(huggingface, name, nan, inf, nan, -inf, nan, at=96 + 95)
    target = written(tmp_path, weights)
    with pytest.raises(InputError) as caught:
        load_model(target)
    problem = f'tensor "{name}" holds 3 NaN and 2 infinite values (first at [1, 95])'
    assert str(caught.value) == f"{target.weights}: {problem}"
    assert torch.isnan(load_model(target, check_finite=False)(IDS)).any()


@pytest.mark.parametrize(("stored", "bits"), [("F16", "<u2"), ("F64", "<u8")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_signalling_nan_warns_of_nothing(
    tmp_path: Path, stored: str, bits: str, dtype: FloatDtype
) -> None:
    expected = expected_shapes(CONFIG)
    entries, end = {}, 0
    size = {"F16": 2, "F64": 8}[stored]
    for name, shape in expected.items():
        start, end = end, end + size * math.prod(shape)
        entries[name] = entry(stored, list(shape), start, end)
    signalling = {"F16": 0x7C01, "F64": 0x7FF0_0000_0000_0001}[stored]
    data = np.full(end // size, signalling, bits).tobytes()
    checkpoint = open_checkpoint(write(tmp_path / "x.safetensors", raw(entries, data)), CONFIG)
    tensors = checkpoint.weights(dtype).tensors
    with pytest.raises(InputError, match="NaN"):
        tensors["pos_emb.weight"]
    if stored == "F16":
        unchecked = checkpoint.weights(dtype, check_finite=False)
        assert np.isnan(unchecked.floats("pos_emb.weight")).all()


def test_asking_for_a_tensor_does_not_read_it(tmp_path: Path) -> None:
    target = written(tmp_path, huggingface())
    assert target.weights
    tensors = open_checkpoint(target.weights, CONFIG).weights().tensors
    target.weights.unlink()
    assert "pos_emb.weight" in tensors
    assert "nothing" not in tensors


def test_large_values_are_refused_only_where_they_do_not_fit(tmp_path: Path) -> None:
    target = written(tmp_path, broken(huggingface, "wpe.weight", 3e38, 3e38, 1e30))
    assert load_model(target).pos_emb.weight.max() == 3e38  # their sum is infinite, they are not
    with pytest.raises(InputError, match="holds 3 too large for float16 values"):
        load_model(target, dtype=torch.float16)
    doubles = {name: weight.double() for name, weight in huggingface().items()}
    doubles["wpe.weight"][0, 3] = -1e300
    with pytest.raises(InputError, match=r"1 too large for float32 values \(first at \[0, 3\]\)"):
        load_model(written(tmp_path, doubles), check_finite=False)


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    weights = huggingface() | {"ln_f.bias": torch.zeros(CONFIG.emb_dim, dtype=torch.int64)}
    with pytest.raises(InputError, match=r'"ln_f.bias" is I64; weights must be F32, F16 or BF16'):
        load_model(written(tmp_path, weights))


def test_weights_alone_do_not_tell_the_heads(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a config: weights do not tell n_heads"):
        load_model(written(tmp_path, huggingface(), None))


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, book()).weights
    assert path is not None
    opened = open_checkpoint(path, CONFIG)
    last = [*opened.layout.sources][-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="changed while it was being read"):
        opened.weights().tensors[last]
    with path.open("rb") as file:  # it shrinks after the first look
        headers = [replace(opened.headers[0], stamp=stamp_of(file.fileno()))]
    with pytest.raises(RunError, match="changed while it was being read"):
        dict(replace(opened, headers=headers).weights().tensors)


def test_a_file_rewritten_between_two_reads_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, book()).weights or Path()
    (header,) = read_headers(path)

    def read_and_rewrite() -> None:
        with arrays.open_unchanged(header) as fd:
            assert os.pread(fd, 8, 0)
            path.write_bytes(path.read_bytes())

    with pytest.raises(RunError, match="changed while it was being read"):
        read_and_rewrite()


@pytest.mark.parametrize("is_stored", [True, False])
def test_what_cannot_fit_is_refused_before_it_is_built(tmp_path: Path, is_stored: bool) -> None:
    huge = replace(CONFIG, vocab_size=1 << 24, emb_dim=1 << 16, n_heads=1, n_layers=1)
    path = write_sparse(tmp_path / "huge", expected_shapes(huge)) if is_stored else None
    with pytest.raises(RunError, match=r"huge: needs about [0-9],[0-9]{3}\.[0-9] GiB, .+ are"):
        load_model(Target("huge", huge, None, path))


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A file of zeros that take no room on the disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = entry("F32", list(shape), at, at + size)
        at += size
    write(path, raw(header))
    os.truncate(path, path.stat().st_size + at)
    return path


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="`device=abacus`: "):
        load_model(written(tmp_path, book()), device="abacus")


def test_an_untrained_model_comes_from_its_seed() -> None:
    target = Target("x", CONFIG)
    for seed in (None, 7):
        ours, expected = load_model(target, seed=seed), untrained(CONFIG, seed or 0)
        for name, weight in expected.state_dict().items():
            assert torch.equal(ours.state_dict()[name], weight)
    assert load_model(target, dtype=torch.bfloat16).pos_emb.weight.dtype == torch.bfloat16


def test_loading_leaves_torch_as_it_was(tmp_path: Path) -> None:
    target = written(tmp_path, book())
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    load_model(target)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before[1:]


@pytest.mark.parametrize("tie", [True, False])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, tie: bool) -> None:
    model = untrained(replace(CONFIG, tie_weights=tie, tokenizer="r50k_base"), 5)
    save(model, tmp_path / "new" / "folder")
    files = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert files == {"model.safetensors", "config.json"}
    path = tmp_path / "new" / "folder" / "model.safetensors"
    assert ("out_head.weight" in load_file(path)) != tie
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    again = load_model(resolve(str(path.parent)))
    assert again.config == model.config
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    model = untrained(CONFIG, 0)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        save(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be created"):
        save(model, tmp_path / "file")


@pytest.mark.parametrize("tie", [True, False])
def test_weights_load_into_a_model_that_is_there(tmp_path: Path, tie: bool) -> None:
    model = untrained(replace(CONFIG, tie_weights=tie), 0)
    parameters = list(model.parameters())
    load_weights(model, written(tmp_path, huggingface()).weights or Path())
    assert_is_oracle(model)
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    other = book() | {"out_head.weight": torch.ones(CONFIG.vocab_size, CONFIG.emb_dim)}
    path = written(tmp_path, other).weights or Path()
    if tie:
        with pytest.raises(InputError, match="has an output head of its own"):
            load_weights(model, path)
    else:
        load_weights(model, path)
        assert model.out_head.weight.min() == 1


PEAK = """
import sys, torch
from gptcli.checkpoint.load import load_model
from gptcli.core.memory import peak_bytes  # ru_maxrss would begin at that of the starting process
from gptcli.checkpoint.weights import open_checkpoint
from gptcli.checkpoint.resolve import resolve
target, toy = map(resolve, sys.argv[1:])
load_model(toy)  # what the first load takes for good, whatever its size
before = peak_bytes()
model = load_model(target)
weights = sum(w.nbytes for w in model.parameters())
print((peak_bytes() - before) / weights, weights, "sympy" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_loading_takes_the_memory_of_the_weights_once(tmp_path: Path) -> None:
    large = {"vocab_size": 9000, "n_positions": 64, "n_embd": 512, "n_layer": 12, "n_head": 8}
    for name, shape in {"large": large, "toy": large | {"vocab_size": 9, "n_layer": 1}}.items():
        (tmp_path / name).mkdir()
        with torch.device("meta"):
            state = GPT2LMHeadModel(GPT2Config(**shape)).transformer.state_dict()
        shapes = {key: tuple(weight.shape) for key, weight in state.items()}
        # converted, fused and transposed: the most staging there can be
        halves = zeros(shapes, dict.fromkeys(shapes, "F16"))
        write(tmp_path / name / "model.safetensors", halves)
        settings = json.dumps({"model_type": "gpt2", **shape})
        (tmp_path / name / "config.json").write_text(settings)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "large"), str(tmp_path / "toy")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    ratio, size, loaded = result.stdout.split()
    assert int(size) > 150e6
    assert float(ratio) < 1.15
    assert loaded == "False"  # half of torch, which initialising on the meta device would load
