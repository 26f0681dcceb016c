"""Layouts are recognised by names and shapes alone, and every misfit is told at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_model
from torch import nn
from weight_files import write, zeros

from gptcli.checkpoint.compatibility import find_mismatches
from gptcli.checkpoint.header import read_headers
from gptcli.checkpoint.layouts import HEAD, Layout, detect_layout, expected_shapes, implied_config
from gptcli.core.errors import InputError
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel

V, C, E = 11, 5, 4
CONFIG = GPTConfig(vocab_size=V, context_length=C, emb_dim=E, n_heads=2, n_layers=2, qkv_bias=True)
PLAIN = GPTConfig(vocab_size=V, context_length=C, emb_dim=E, n_heads=2, n_layers=2)

Shapes = dict[str, tuple[int, ...]]


def gpt2(
    prefix: str = "",
    *,
    turned: bool = True,
    bias: bool = True,
    head: bool = False,
    inner: int = 4 * E,
) -> Shapes:
    """Names and shapes as Hugging Face (`turned`) or nanoGPT write them."""
    linear = {"mlp.c_proj": (E, inner), "mlp.c_fc": (inner, E), "attn.c_proj": (E, E)}
    linear["attn.c_attn"] = (3 * E, E)
    shapes: Shapes = {f"{prefix}wte.weight": (V, E), f"{prefix}wpe.weight": (C, E)}
    norms = [f"{prefix}ln_f"]
    for block in (f"{prefix}h.{n}." for n in range(2)):
        for name, (outputs, inputs) in linear.items():
            shapes[f"{block}{name}.weight"] = (inputs, outputs) if turned else (outputs, inputs)
            shapes |= {f"{block}{name}.bias": (outputs,)} if bias else {}
        norms += [f"{block}ln_1", f"{block}ln_2"]
    shapes |= {f"{norm}.{kind}": (E,) for norm in norms for kind in ["weight", "bias"][: 1 + bias]}
    outer = prefix.removesuffix("transformer.")
    return shapes | ({f"{outer}lm_head.weight": (V, E)} if head else {})


def masks(prefix: str) -> Shapes:
    names = {"attn.bias": (1, 1, C, C), "attn.masked_bias": ()}
    return {f"{prefix}h.{n}.{name}": shape for n in range(2) for name, shape in names.items()}


def later_book(prefix: str = "") -> Shapes:
    """As the book's later variants are saved: fused attention, PyTorch's LayerNorm."""
    shapes: Shapes = {}
    for name, shape in BOOK.items():
        if "W_query" in name:
            shapes[name.replace("W_query", "qkv")] = (3 * E, *shape[1:])
        elif "W_key" not in name and "W_value" not in name:
            later = name.replace("out_proj", "proj").replace("scale", "weight")
            shapes[later.replace("shift", "bias")] = shape
    return {prefix + name: shape for name, shape in shapes.items()}


def wrapped(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


OTHER_HEADS = {
    "v_head.summary.weight": (1, E),
    "score.weight": (2, E),
    "classifier.bias": (2,),
    "multiple_choice_head.summary.weight": (1, E),
}
DIFFERENT = "holds names of different layouts"
BOOK = expected_shapes(CONFIG)
BOOK_MASKS = {f"trf_blocks.{n}.att.mask": (C, C) for n in range(2)}


def problems(
    tmp_path: Path, shapes: Shapes, config: GPTConfig = CONFIG, dtypes: dict[str, str] | None = None
) -> tuple[Layout, list[str], dict[str, object]]:
    headers = read_headers(write(tmp_path / "x.safetensors", zeros(shapes, dtypes)))
    layout = detect_layout(headers)
    return layout, find_mismatches(headers, layout, config), implied_config(headers, layout)


def test_the_expected_tensors_are_those_of_the_model() -> None:
    for config in (CONFIG, PLAIN):
        state = GPTModel(config).state_dict()
        assert expected_shapes(config) == {name: tuple(t.shape) for name, t in state.items()}


GOOD = {
    "book": (BOOK, "book", CONFIG),
    "book, masks": (BOOK | BOOK_MASKS, "book", CONFIG),
    "book, compiled": ({f"_orig_mod.{name}": s for name, s in BOOK.items()}, "book", CONFIG),
    "book, plain": (expected_shapes(PLAIN), "book", PLAIN),
    "bare": (gpt2(), "huggingface", CONFIG),
    "bare, masks": (gpt2() | masks(""), "huggingface", CONFIG),
    "prefixed, head": (gpt2("transformer.", head=True), "huggingface", CONFIG),
    "prefixed, masks": (gpt2("transformer.") | masks("transformer."), "huggingface", CONFIG),
    "nanogpt": (gpt2("transformer.", turned=False, head=True), "nanogpt", CONFIG),
    "nanogpt, no bias": (gpt2("transformer.", turned=False, bias=False), "nanogpt", PLAIN),
    "masks of other shapes": (
        gpt2() | {"h.0.attn.masked_bias": (1,), "h.1.attn.bias": (1, 1, 2 * C, 2 * C)},
        "huggingface",
        CONFIG,
    ),
    "distributed": (wrapped("module.", gpt2("transformer.", head=True)), "huggingface", CONFIG),
    "in a module": (wrapped("model.", gpt2("transformer.")), "huggingface", CONFIG),
    "distributed and compiled": (
        wrapped("module._orig_mod.model.", gpt2("transformer.", head=True)),
        "huggingface",
        CONFIG,
    ),
    "compiled inside": (gpt2("transformer._orig_mod."), "huggingface", CONFIG),
    "book, distributed": (wrapped("_orig_mod.module.", BOOK), "book", CONFIG),
    "book, later": (later_book(), "book", CONFIG),
    "book, later, compiled": (later_book("_orig_mod."), "book", CONFIG),
    "nanogpt, compiled": (
        gpt2("_orig_mod.transformer.", turned=False, head=True) | masks("_orig_mod.transformer."),
        "nanogpt",
        CONFIG,
    ),
}


@pytest.mark.parametrize(("shapes", "name", "config"), GOOD.values(), ids=GOOD)
def test_a_layout_is_recognised_without_a_flag(
    tmp_path: Path, shapes: Shapes, name: str, config: GPTConfig
) -> None:
    layout, found, implied = problems(tmp_path, shapes, config)
    assert (layout.name, found, layout.unexpected) == (name, [], ())
    assert set(layout.sources) | set(layout.zero_biases) | {HEAD} == set(expected_shapes(config))
    assert {source.name for source in layout.sources.values()} | set(layout.ignored) == set(shapes)
    has_head = any(name.endswith(("lm_head.weight", HEAD)) for name in shapes)
    bare = {"bias": False} if "norm1.shift" not in " ".join(layout.sources) else {}
    assert implied == bare | {
        "vocab_size": V,
        "context_length": C,
        "emb_dim": E,
        "n_layers": 2,
        "qkv_bias": config.qkv_bias,
        "tie_weights": not has_head,
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_heads_for_other_tasks_are_left_out_and_named(tmp_path: Path, prefix: str) -> None:
    shapes = wrapped(prefix, gpt2("transformer.", head=True) | OTHER_HEADS)
    layout, found, _ = problems(tmp_path, shapes)
    assert (found, layout.unexpected) == ([], ())
    assert set(layout.other_heads) == set(wrapped(prefix, OTHER_HEADS))
    (notice,) = layout.notices
    assert notice.startswith(f"left out {prefix}v_head.summary.weight, {prefix}score.weight")
    assert recognise_shapes(tmp_path, BOOK).notices == ()


def recognise_shapes(tmp_path: Path, shapes: Shapes) -> Layout:
    return detect_layout(read_headers(write(tmp_path / "y.safetensors", zeros(shapes))))


@pytest.mark.parametrize("inner", [1, 3, 100])
@pytest.mark.parametrize("turned", [True, False])
def test_any_inner_width_leaves_the_orientation_known(
    tmp_path: Path, turned: bool, inner: int
) -> None:
    config = replace(CONFIG, n_inner=inner)
    shapes = gpt2("transformer.", turned=turned, head=True, inner=inner)
    layout, found, implied = problems(tmp_path, shapes, config)
    assert (layout.name, found) == ("huggingface" if turned else "nanogpt", [])
    assert implied["n_inner"] == inner
    _, found, _ = problems(tmp_path, shapes, CONFIG)
    assert found == [f"n_inner: the file has {inner}, the config says 16"]


@pytest.mark.parametrize("form", [gpt2("transformer.", head=True), BOOK, later_book()])
def test_a_head_without_embedding_is_the_embedding_of_a_tied_model(
    tmp_path: Path, form: Shapes
) -> None:
    name = next(name for name in form if name.endswith(("wte.weight", "tok_emb.weight")))
    tied = replace(CONFIG, tie_weights=True)
    layout, found, implied = problems(tmp_path, without(form, name), tied)
    assert found == []
    assert HEAD not in layout.sources
    assert (implied["tie_weights"], implied["vocab_size"]) == (True, V)
    _, found, _ = problems(tmp_path, without(form, name), CONFIG)
    head = "lm_head.weight" if "wte" in name else HEAD
    assert found == [f"has no token embedding, and the config does not say that {head} is it"]


def test_a_file_may_say_itself_that_its_head_is_its_embedding(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = GPTModel(replace(CONFIG, tie_weights=True))

    path = tmp_path / "x.safetensors"
    save_model(Tied(), str(path))
    headers = read_headers(path)
    assert find_mismatches(headers, detect_layout(headers), CONFIG) == []


def test_a_second_head_is_unexpected(tmp_path: Path) -> None:
    shapes = gpt2("module.transformer.", head=True) | {"lm_head.weight": (V, E)}
    _, found, _ = problems(tmp_path, shapes)
    assert found == ["1 tensor unexpected (lm_head.weight)"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"model.embed.weight": (2, 2)},
            "no weights of a GPT-2 in it (found model.embed.weight, expected wte.weight, h.0.attn",
        ),
        ({}, "no weights of a GPT-2 in it (found no tensors, expected"),
        (BOOK | gpt2(), f"{DIFFERENT} (tok_emb.weight, wte.weight)"),
        (gpt2() | gpt2("transformer."), f"{DIFFERENT} (transformer.wte.weight, wte.weight)"),
        (gpt2() | {"transformer.h.1.ln_1.bias": (E,)}, DIFFERENT),
        (BOOK | {"_orig_mod.pos_emb.weight": (C, E)}, DIFFERENT),
    ],
)
def test_mixed_and_foreign_names_are_refused(tmp_path: Path, shapes: Shapes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        problems(tmp_path, shapes)
    assert message in str(caught.value)


def without(shapes: Shapes, *names: str) -> Shapes:
    assert set(names) <= set(shapes)
    return {name: shape for name, shape in shapes.items() if name not in names}


BAD = {
    "missing": (
        without(BOOK, "final_norm.shift", "trf_blocks.1.att.W_key.bias", "pos_emb.weight"),
        ["3 tensors missing (pos_emb.weight, trf_blocks.1.att.W_key.bias, final_norm.shift)"],
    ),
    "missing in its own names": (
        without(gpt2("transformer."), "transformer.h.1.attn.c_attn.weight"),
        ["1 tensor missing (transformer.h.1.attn.c_attn.weight)"],
    ),
    "missing and unexpected": (
        without(gpt2(), "ln_f.bias") | {"ln_f.beta": (E,), "h.0.attn.rotary": (2,)},
        ["1 tensor missing (ln_f.bias), 2 tensors unexpected (ln_f.beta, h.0.attn.rotary)"],
    ),
    "many missing": (
        {name: shape for name, shape in BOOK.items() if "emb" in name or "att.W" in name},
        ["23 tensors missing (trf_blocks.0.att.out_proj.weight, "],
    ),
    "no matrix at all": (
        {name: shape for name, shape in gpt2().items() if ".c_" not in name or "bias" in name},
        ["8 tensors missing (h.0.attn.c_attn.weight, h.0.attn.c_proj.weight, h.0.mlp.c_fc.weight,"],
    ),
    "some biases": (
        without(gpt2("transformer.", turned=False), "transformer.h.0.ln_1.bias"),
        ["1 tensor missing (transformer.h.0.ln_1.bias)"],
    ),
    "a stray far block": (
        BOOK | {"trf_blocks.999999.norm1.scale": (E,), "trf_blocks.01.norm1.scale": (E,)},
        ["2 tensors unexpected (trf_blocks.01.norm1.scale, trf_blocks.999999.norm1.scale)"],
    ),
    "book without head": (without(BOOK, HEAD), [f"1 tensor missing ({HEAD})"]),
    "transposed": (
        gpt2() | {"h.1.attn.c_attn.weight": (3 * E, E)},
        ['tensor "h.1.attn.c_attn.weight" has the shape [12, 4], expected [4, 12]'],
    ),
    "a mask of the other layout": (
        BOOK | {"trf_blocks.0.attn.bias": (1, 1, C, C)},
        ["1 tensor unexpected (trf_blocks.0.attn.bias)"],
    ),
    "rank": (
        BOOK | {"tok_emb.weight": (V, E, 1)},
        ['tensor "tok_emb.weight" has the shape [11, 4, 1], expected [11, 4]'],
    ),
}


@pytest.mark.parametrize(("shapes", "messages"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_told(tmp_path: Path, shapes: Shapes, messages: list[str]) -> None:
    _, found, _ = problems(tmp_path, shapes)
    assert len(found) == len(messages)
    assert all(message in line for message, line in zip(messages, found, strict=True))


def test_all_problems_come_together(tmp_path: Path) -> None:
    config = GPTConfig(vocab_size=9, context_length=8, emb_dim=E, n_heads=1, n_layers=3)
    shapes = without(BOOK, "final_norm.scale") | {"pos_emb.weight": (C, E), "extra": (1,)}
    dtypes = {"tok_emb.weight": "I64", "extra": "I64"}
    _, found, _ = problems(tmp_path, shapes, config, dtypes)
    assert found == [
        "vocab_size: the file has 11, the config says 9",
        "context_length: the file has 5, the config says 8",
        "n_layers: the file has 2, the config says 3",
        "the file has query/key/value biases but the config says qkv_bias: false",
        "1 tensor missing (final_norm.scale), 1 tensor unexpected (extra)",
        'tensor "tok_emb.weight" is I64; weights must be F32, F16 or BF16',
    ]


def test_a_few_of_each_kind_are_told(tmp_path: Path) -> None:
    shapes = {name: (*shape, 1) if "norm" in name else shape for name, shape in BOOK.items()}
    _, found, _ = problems(tmp_path, shapes, CONFIG, dict.fromkeys(BOOK, "U8"))
    assert len(found) == 12
    assert found[5] == "... (+5 more of this kind)"
    assert found[11] == f"... (+{len(BOOK) - 5} more of this kind)"


def test_biases_and_config_agree(tmp_path: Path) -> None:
    _, with_, _ = problems(tmp_path, BOOK, PLAIN)
    _, without_, _ = problems(tmp_path, expected_shapes(PLAIN), CONFIG)
    assert with_ == ["the file has query/key/value biases but the config says qkv_bias: false"]
    assert without_ == ["the file has no query/key/value biases but the config says qkv_bias: true"]


def test_a_size_that_no_model_has_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    _, found, _ = problems(tmp_path, BOOK | {"tok_emb.weight": (0, 1 << 30)})
    assert "vocab_size: the file has 0, the config says 11" in found
    assert "emb_dim: the file has 1,073,741,824, the config says 4" in found
