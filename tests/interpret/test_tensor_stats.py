"""Statistics of tensors: against NumPy and torch on the whole tensor, and damage of every kind."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from gptcli.checkpoint import tensordata
from gptcli.checkpoint.header import read_header, read_headers
from gptcli.checkpoint.load import save
from gptcli.checkpoint.tensordata import PIECE, can_read, open_unchanged, read_pieces
from gptcli.cli import run
from gptcli.cli.render.stats_report import bars
from gptcli.interpret.tensor_stats import BINS, merged, statistics, summary
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained

SMALL = GPTConfig(vocab_size=50, context_length=8, emb_dim=12, n_heads=3, n_layers=2)
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OTHERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool]


def stats_of(path, tensors):
    save_file(tensors, path)
    return {one.name: one for one in statistics(read_headers(path))}


def check(one, tensor):
    """`tensor` is what torch holds; NumPy is the oracle, in float64 and on all values at once."""
    values = tensor.to(torch.float64).numpy().ravel()
    finite = values[np.isfinite(values)]
    assert one.elements == values.size
    assert (one.nan, one.infinite) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert one.zeros == (finite == 0).sum()
    assert (one.minimum, one.maximum) == (finite.min(), finite.max())
    assert one.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-15)
    assert one.deviation == pytest.approx(finite.std(), rel=1e-12)
    assert one.norm == pytest.approx(np.linalg.norm(finite), rel=1e-12)
    assert list(one.histogram) == np.histogram(finite, BINS)[0].tolist()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_numpy_finds_the_same_in_floats(tmp_path, dtype):
    torch.manual_seed(0)
    several_pieces = (torch.randn(3, PIECE - 5) * 3 + 0.5).to(dtype)
    one = stats_of(tmp_path / "x.safetensors", {"x": several_pieces})["x"]
    check(one, several_pieces)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_numpy_finds_the_same_in_integers(tmp_path, dtype):
    torch.manual_seed(0)
    x = torch.randint(0, 2 if dtype == torch.bool else 100, (31, 17)).to(dtype)
    check(stats_of(tmp_path / "x.safetensors", {"x": x})["x"], x)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_all_patterns_of_eight_bits_are_read_as_torch_reads_them(tmp_path, name):
    if not hasattr(torch, name):
        pytest.skip(f"this PyTorch has no {name}")
    x = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))
    path = tmp_path / "x.safetensors"
    save_file({"x": x}, path)
    header = read_header(path)
    with open_unchanged(header) as fd:
        (ours,) = read_pieces(fd, header.tensors["x"])
    np.testing.assert_array_equal(ours, x.to(torch.float32).numpy())


def test_a_far_mean_does_not_eat_the_deviation(tmp_path):
    x = torch.tensor([1e8 + 1, 1e8 + 2, 1e8 + 3] * 100_000, dtype=torch.float64)
    one = stats_of(tmp_path / "x.safetensors", {"x": x})["x"]
    assert one.deviation == pytest.approx((2 / 3) ** 0.5, rel=1e-9)


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path):
    x = torch.randn(1000)
    x[[3, 500]], x[7], x[[8, 9, 10]] = torch.nan, torch.inf, -torch.inf
    x[20:25] = 0
    one = stats_of(tmp_path / "x.safetensors", {"x": x})["x"]
    assert (one.nan, one.infinite, one.zeros) == (2, 4, 5)
    assert sum(one.histogram) == 994
    check(one, x)


def test_tensors_with_nothing_to_measure(tmp_path):
    found = stats_of(
        tmp_path / "x.safetensors",
        {
            "empty": torch.empty(0, 4),
            "nan": torch.full((3,), torch.nan),
            "scalar": torch.tensor(2.5),
            "constant": torch.ones(9),
            "complex": torch.ones(2, dtype=torch.complex64),
        },
    )
    for name in ("empty", "nan"):
        one = found[name]
        assert one.minimum is one.maximum is one.mean is one.deviation is one.norm is None
        assert one.histogram == ()
    assert (found["scalar"].mean, found["scalar"].shape) == (2.5, ())
    assert (found["constant"].deviation, sum(found["constant"].histogram)) == (0, 9)
    assert not found["complex"].was_read
    assert found["complex"].mean is None


def test_what_float64_cannot_hold_is_not_known():
    huge = np.array([1.7e308, -1.7e308, 1.7e308])
    one = summary(lambda: iter([huge]), "x", "F64", (3,))
    assert (one.minimum, one.maximum, one.norm, one.histogram) == (-1.7e308, 1.7e308, None, ())
    json.dumps(one.norm, allow_nan=False)


def test_reading_is_told_twice_for_each_byte(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(PIECE + 3), "b": torch.ones(4, dtype=torch.complex64)}, path)
    told = Counter()
    list(statistics(read_headers(path), lambda name, read: told.update({name: read})))
    assert told == {"a": 8 * (PIECE + 3), "b": 64}


def test_memory_is_a_few_pieces_whatever_the_tensor(tmp_path):
    tracemalloc = pytest.importorskip("tracemalloc")
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(40 * PIECE)}, path)
    tracemalloc.start()
    (one,) = statistics(read_headers(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one.zeros == 40 * PIECE
    assert peak < 5 * 8 * PIECE


def test_every_dtype_of_the_format_is_read_or_known_not_to_be():
    unread = {d for d in tensordata.DTYPE_BITS if not can_read(d)}
    assert unread == {"F4", "F6_E2M3", "F6_E3M2", "C64"}


def small_model(directory, damage=False):
    model = untrained(SMALL, 0)
    if damage:
        with torch.no_grad():
            model.pos_emb.weight[1, 2] = torch.inf
    save(model, directory)
    return directory


def test_inspect_prints_a_row_for_each_tensor_and_what_is_odd(tmp_path, capsys):
    assert run(["inspect", str(small_model(tmp_path, damage=True)), "--stats", "--details"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert rows["trf_blocks.1.norm2.scale"].split()[1:5] == ["1", "1", "1", "0"]
    assert "0 NaN and 1 infinite values, in 1 tensor (pos_emb.weight)" in out


def test_inspect_has_the_same_numbers_in_json(tmp_path, capsys):
    assert run(["inspect", str(small_model(tmp_path)), "--stats", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gptcli.inspect/1"
    by_name = {one["name"]: one for one in document["stats"]}
    assert by_name.keys() == {tensor["name"] for tensor in document["weights"]["tensors"]}
    weight = untrained(SMALL, 0).tok_emb.weight
    assert by_name["tok_emb.weight"]["norm"] == pytest.approx(weight.double().norm().item())


def test_a_config_has_no_values_to_measure(capsys):
    assert run(["inspect", "gpt2-124m", "--stats"]) == 3
    assert "no weights" in capsys.readouterr().err


def test_neither_measuring_nor_comparing_loads_torch(tmp_path):
    small_model(tmp_path)
    code = (
        "import sys; from gptcli.cli import run; code = run(['inspect', *sys.argv[1:]]);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    for arguments in ([tmp_path, "--stats"], [tmp_path, tmp_path]):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True)


@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), min_size=1, max_size=5
    )
)
def test_statistics_of_several_tensors_are_those_of_their_values_together(values):
    arrays = [np.array(some, np.float32) for some in values]
    each = [summary(lambda a=a: [a], "x", "F32", a.shape) for a in arrays]
    found, whole = merged("all", each), np.concatenate(arrays).astype(np.float64)
    assert (found.elements, found.zeros) == (whole.size, (whole == 0).sum())
    assert (found.minimum, found.maximum) == (whole.min(), whole.max())
    assert found.mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-6)
    assert found.deviation == pytest.approx(whole.std(), rel=1e-6, abs=1e-6)
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=1e-9)


def test_tensors_that_repeat_by_block_are_one_line(tmp_path, capsys):
    assert run(["inspect", str(small_model(tmp_path, damage=True)), "--stats"]) == 0
    out = capsys.readouterr().out
    table = out[: out.index("Suspicious")].splitlines()
    rows = {line.split()[0]: line.split() for line in table if line.startswith("  ")}
    assert rows["trf_blocks.0-1.norm2.scale"][1:5] == ["1", "1", "1", "0"]
    assert len([name for name in rows if name.startswith("trf_blocks")]) == 13
    assert "1 infinite values, in 1 tensor (pos_emb.weight)" in out


def test_bars_show_none_few_and_most():
    assert bars([0, 1, 50, 100]) == " ▁▄█"
    assert bars([]) == ""
