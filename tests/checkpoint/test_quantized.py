"""Stored quantised weights: the same bits as rounding on load, and what is wrong in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import needs_kernels
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizer_files import byte_ranks, write_ranks

from gptcli.checkpoint.load import load_model, load_weights, save, weights_of
from gptcli.checkpoint.resolve import resolve
from gptcli.checkpoint.save import save_weights
from gptcli.checkpoint.weights import open_checkpoint
from gptcli.cli import run
from gptcli.core.errors import GptcliError, InputError, UsageError
from gptcli.engine.interface import Span
from gptcli.engine.quantize import to_int4, widened
from gptcli.generation.llm import LLM
from gptcli.generation.model_spec import ModelSpec
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained

WIDTHS = ["int8", "int4"]
IDS = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(0))


def model(**changes: object) -> GPTModel:
    """Lively weights: every tensor of its own, and none that bfloat16 holds."""
    sizes = {"vocab_size": 257, "context_length": 48, "emb_dim": 64, "n_heads": 4, "n_layers": 2}
    config = GPTConfig(**{**sizes, "tokenizer": "bytes.tiktoken", **changes})  # type: ignore[arg-type]
    made = untrained(config, seed=3)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return made


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of floats."""
    directory = tmp_path_factory.mktemp("original")
    save(model(), directory)
    write_ranks(directory / "bytes.tiktoken", byte_ranks())
    return directory


@pytest.fixture(scope="module", params=WIDTHS)
def stored(original: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A width, and what `gptcli quantize` makes of the original."""
    directory = original.with_name(f"{original.name}-{request.param}")
    arguments = ["quantize", str(original), "-o", str(directory), "--quantize", request.param]
    assert run(arguments) == 0
    return request.param, directory


def logits(directory: Path, width: Any = None) -> np.ndarray:
    """Of the first of `IDS`, by the compiled kernels."""
    spec = ModelSpec(model=str(directory), quantize=width)
    checkpoint = open_checkpoint(directory / "model.safetensors", resolve(str(directory)).config)
    weights = checkpoint.weights()
    from gptcli.engine.native import NativeEngine

    engine = NativeEngine(weights.config, weights.tensors, width=spec.quantize)
    ids = IDS[0].tolist()
    return engine.step([Span(engine.new_cache(), ids, len(ids))])


@needs_kernels
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("changes", [{}, {"tie_weights": True}, {"qkv_bias": True}], ids=str)
def test_logits_are_those_of_rounding_on_load(
    tmp_path: Path, width: str, changes: dict[str, object]
) -> None:
    save(model(**changes), tmp_path / "floats")
    save_weights(weights_of(model(**changes)), tmp_path / "few", width)  # type: ignore[arg-type]
    rounded = logits(tmp_path / "floats", width)
    found = logits(tmp_path / "few")
    np.testing.assert_array_equal(found, rounded)
    of_book = load_model(resolve(str(tmp_path / "few")))(IDS).detach()[0].numpy()
    assert np.linalg.norm(of_book - found) / np.linalg.norm(of_book) < 0.03


def test_levels_come_out_as_they_went_in() -> None:
    found = to_int4(np.random.default_rng(0).standard_normal((6, 64), np.float32))
    assert found.levels.shape == (6, 32)
    level = int(found.levels[2, 5]) & 15, int(found.levels[2, 5]) >> 4
    scale, zero = (float(widened(part)[2, 0]) for part in (found.scales, found.zeros))
    expected = [(n - 8) * scale + zero for n in level]
    assert found.floats()[2, 10:12].tolist() == pytest.approx(expected)


def test_what_bfloat16_holds_is_stored_in_it_and_nothing_else(tmp_path: Path) -> None:
    made = model()
    made.pos_emb.weight.data = made.pos_emb.weight.data.bfloat16().float()
    save_weights(weights_of(made), tmp_path, "int8")
    found = load_file(tmp_path / "model.safetensors")
    assert found["pos_emb.weight"].dtype == torch.bfloat16
    assert found["final_norm.scale"].dtype == torch.float32
    assert torch.equal(found["final_norm.scale"], made.final_norm.scale)


def test_the_file_is_what_its_description_says(stored: tuple[str, Path]) -> None:
    width, directory = stored
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "gptcli.quantized/1", "width": width}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = "trf_blocks.1.ff.layers.2.weight"
    expected = load_file(directory.with_name(directory.name[:-5]) / "model.safetensors")[name]
    if width == "int8":
        weight = found[f"{name}.values"] * found[f"{name}.scales"][:, None]
    else:
        pairs = found[f"{name}.levels"].long()
        levels = torch.stack([pairs % 16, pairs // 16], -1).flatten(1).unflatten(1, (-1, 32))
        scales, zeros = (found[f"{name}.{part}"].float()[..., None] for part in ("scales", "zeros"))
        weight = ((levels - 8) * scales + zeros).flatten(1)
    assert float((weight - expected).norm() / expected.norm()) < (0.01 if width == "int8" else 0.1)


def test_texts_are_those_of_the_original_rounded_on_load(
    original: Path, stored: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    width, directory = stored
    how = ["--seed", "5", "-n", "20", "once upon"]
    capfd.readouterr()
    assert run(["generate", "-m", str(original), "--quantize", width, *how]) == 0
    rounded = capfd.readouterr().out
    assert run(["generate", "-m", str(directory), *how]) == 0
    assert capfd.readouterr().out == rounded
    assert run(["generate", "-m", str(directory), "--quantize", width, *how]) == 0
    assert capfd.readouterr().out == rounded
    assert run(["generate", "-m", str(original), *how]) == 0
    assert capfd.readouterr().out != rounded


@pytest.mark.parametrize("option", [["--quantize"], ["--dtype", "bfloat16"]])
@pytest.mark.parametrize("command", ["generate", "batch"])
def test_other_numbers_than_the_stored_ones_are_a_usage_error(
    stored: tuple[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    option: list[str],
    command: str,
) -> None:
    width, directory = stored
    given = [*option, "int4" if width == "int8" else "int8"][:2]
    (tmp_path / "in").write_text("a\n")
    what = ["--text", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert run([command, "-m", str(directory), *given, *(what if command == "batch" else "a")]) == 2
    assert f"{width} " in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_is_replayed_and_is_no_batch_of_the_floats(
    original: Path, stored: tuple[str, Path], tmp_path: Path
) -> None:
    width, directory = stored
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("a\nbc\n")
    how = ["--text", str(source), "--seed", "1", "-n", "8"]
    assert run(["batch", "-m", str(directory), "-o", str(out), *how]) == 0
    assert run(["replay", str(out), "-i", str(source), "-m", str(directory)]) == 0
    assert run(["replay", str(out), "-i", str(source), "-m", str(original)]) == 3
    rounded = ["batch", "-m", str(original), "--quantize", width, "-o", str(tmp_path / "other")]
    assert run([*rounded, *how]) == 0
    ours, theirs = (records(path) for path in (out, tmp_path / "other"))
    assert ours[1:] == theirs[1:]
    assert ours[0]["dtype"] == theirs[0]["dtype"] == width
    assert ours[0]["weights"] != theirs[0]["weights"]


def test_parameters_are_the_models_and_bytes_the_files(
    original: Path, stored: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    width, directory = stored
    capfd.readouterr()
    assert run(["count-params", str(original), str(directory), "--json"]) == 0
    floats, few = json.loads(capfd.readouterr().out)["targets"]
    assert few["parameters"] == floats["parameters"]
    sums = few["stored"]
    assert sums["parameters"] == floats["stored"]["parameters"] == few["parameters"]["total"]
    assert sums["parameters"] + sums["scales"] == sums["elements"]
    assert sums["size"] == (directory / "model.safetensors").stat().st_size
    assert run(["inspect", str(directory), "--json"]) == 0
    weights = json.loads(capfd.readouterr().out)["weights"]
    assert (weights["layout"], weights["problems"]) == ("quantized", [])
    assert weights["oddities"] == []
    assert run(["inspect", str(directory), "--prompt", "ab"]) == 0
    capfd.readouterr()
    assert run(["generate", "-m", str(directory), "--dry-run", "--json", "ab"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["dtype"] == width
    assert told["weights_bytes"] == pytest.approx(sums["size"], rel=0.15)


def test_a_comparison_is_of_what_the_numbers_stand_for(
    original: Path, stored: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    _, directory = stored
    capfd.readouterr()
    assert run(["inspect", str(original), str(directory), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["removed"], found["added"]) == ([], [])
    ours, theirs = (
        torch.cat([weight.detach().flatten() for weight in load_model(resolve(path)).parameters()])
        for path in (str(original), str(directory))
    )
    relative = float((ours - theirs).norm() / ours.norm())
    assert found["whole"]["relative"] == pytest.approx(relative, rel=1e-4)


def read_all(directory: Path) -> None:
    path = directory / "model.safetensors"
    dict(open_checkpoint(path, resolve(str(directory)).config).weights().tensors)


def drop(name: str) -> Callable[..., None]:
    return lambda tensors, _: tensors.pop(name)


def put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    def damage(tensors: dict[str, torch.Tensor], _: dict[str, str]) -> None:
        tensors[name] = change(tensors[name])

    return damage


HEAD, NORM = "out_head.weight.scales", "final_norm.scale"
DAMAGES = {
    r"1 tensor missing \(out_head.weight.scales\)": drop(HEAD),
    r"1 tensor missing \(final_norm.scale\)": drop(NORM),
    r"shape \[256\], expected \[257\]": put(HEAD, lambda t: t[1:].clone()),
    r"\.scales\" is F16, expected F32": put(HEAD, torch.Tensor.half),
    r"scale\" is F16, expected BF16 or F32": put(NORM, torch.Tensor.half),
    r"1 NaN values \(first at \[3\]\)": put(
        HEAD, lambda t: t.index_fill(0, torch.tensor(3), torch.nan)
    ),
    r"1 tensor unexpected \(tok_emb.weight\)": lambda tensors, _: tensors.update(
        {"tok_emb.weight": torch.zeros(257, 64)}
    ),
    r"in an unknown format": lambda _, about: about.update(format="gptcli.quantized/2"),
    r"to an unknown width \(\"int3\"": lambda _, about: about.update(width="int3"),
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_damage_is_named_in_one_line(
    stored: tuple[str, Path], tmp_path: Path, problem: str
) -> None:
    width, directory = stored
    tensors = load_file(directory / "model.safetensors")
    about = {"format": "gptcli.quantized/1", "width": width}
    DAMAGES[problem](tensors, about)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata=about)
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    with pytest.raises(InputError, match=problem) as refused:
        read_all(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_truncated_file_is_refused(stored: tuple[str, Path], tmp_path: Path) -> None:
    _, directory = stored
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-5])
    assert run(["generate", "-m", str(tmp_path), "a"]) == 3


def test_floats_are_not_read_from_it_by_those_who_train(stored: tuple[str, Path]) -> None:
    width, directory = stored
    with pytest.raises(InputError, match=f"holds {width} weights, expected floats"):
        load_weights(model(), directory / "model.safetensors")


def test_the_directory_is_whole_and_never_written_over(
    original: Path, stored: tuple[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    width, directory = stored
    names = {path.name for path in directory.iterdir()}
    assert {"MODEL_CARD.md", "config.json", "model.safetensors"} < names
    again = ["quantize", str(original), "-o", str(directory), "--quantize", width]
    assert run(again) == 2
    assert run(["quantize", str(directory), "-o", str(tmp_path / "x"), "--quantize", width]) == 3
    assert run(["quantize", "gpt2-124m", "-o", str(tmp_path / "x"), "--quantize", width]) == 3
    assert "has no weights to quantise" in capfd.readouterr().err
    assert run(["quantize", str(original), "-o", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_a_layer_that_int4_cannot_have_is_a_usage_error(tmp_path: Path) -> None:
    narrow = model(emb_dim=40, n_heads=2)
    with pytest.raises(UsageError, match="multiple of 32"):
        save_weights(weights_of(narrow), tmp_path, "int4")
    save_weights(weights_of(narrow), tmp_path, "int8")
    read_all(tmp_path)
    with pytest.raises(GptcliError, match="int8 already, got int4"):
        LLM.of_target(ModelSpec(quantize="int4"), resolve(str(tmp_path)))


def test_guesses_change_nothing_after_a_prompt_that_is_read_in_one_go(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Many rows of one text are multiplied in another way than a few, whoever checks guesses."""
    save(model(context_length=192), tmp_path)
    write_ranks(tmp_path / "bytes.tiktoken", byte_ranks())
    for width in WIDTHS:
        how = ["-m", str(tmp_path), "--quantize", width, "--greedy", "-n", "90", "abcdefgh" * 12]
        assert run(["generate", *how]) == 0
        plain = capfd.readouterr().out
        assert run(["generate", *how, "--lookup"]) == 0
        assert capfd.readouterr().out == plain
