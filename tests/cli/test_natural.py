"""`--dtype auto` against every kind of weights and machine."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_directory import write_tiny

from gptcli.cli import run
from gptcli.cli.natural import natural_dtype
from gptcli.engine import precision


def weights(path: Path, dtype: torch.dtype) -> Path:
    """Most of it in a dtype, a little in float32, as norms often are."""
    save_file({"a": torch.zeros(50, dtype=dtype), "b": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        (torch.float32, "cpu", {True: "float32", False: "float32"}),
        (torch.float32, "cuda", {True: "float32", False: "float32"}),
        (torch.bfloat16, "cpu", {True: "bfloat16", False: "float16"}),
        (torch.float16, "cpu", {True: "float16", False: "float16"}),
        (torch.bfloat16, "cuda", {True: "bfloat16", False: "float16"}),
        (torch.float16, "cuda", {True: "float16", False: "float16"}),
        (torch.float64, "cpu", {True: "float32", False: "float32"}),
    ],
)
def test_the_weights_own_where_the_machine_has_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    device: str,
    expected: dict[bool, str],
) -> None:
    """`expected` by whether the machine multiplies bfloat16 by itself."""
    path = weights(tmp_path / "w.safetensors", dtype)
    for has, name in expected.items():
        monkeypatch.setattr(precision, "has_bfloat16", lambda _device, has=has: has)
        assert natural_dtype(path, device) == name


def test_where_no_half_is_fast_they_are_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("has_bfloat16", "has_float16"):
        monkeypatch.setattr(precision, name, lambda _device: False)
    for dtype in (torch.bfloat16, torch.float16):
        assert natural_dtype(weights(tmp_path / "w.safetensors", dtype), "cpu") == "float32"


def test_no_weights_are_float32() -> None:
    assert natural_dtype(None, "cpu") == "float32"


@pytest.mark.parametrize("more", [[], ["--quantize", "int8"]])
def test_a_text_is_that_of_the_dtype_it_comes_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    directory = write_tiny(tmp_path / "model")
    said = []
    for dtype in ("auto", "float32"):
        assert (
            run(
                [
                    "generate",
                    "A",
                    "-m",
                    str(directory),
                    "--seed=1",
                    "-n8",
                    f"--dtype={dtype}",
                    *more,
                ]
            )
            == 0
        )
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
