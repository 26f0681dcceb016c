"""The stream of draws: known answers, uniform, and independent along every axis."""

import shutil
import subprocess
from collections.abc import Callable

import pytest
import torch

from gptcli.sampling.sampler import uniform

AXES: dict[str, Callable[[int], float]] = {
    "seed": lambda i: uniform(i, "", 0, 0),
    "record": lambda i: uniform(1, f"line-{i}", 0, 0),
    "sample": lambda i: uniform(1, "line-1", i, 0),
    "position": lambda i: uniform(1, "line-1", 0, i),
}


@pytest.fixture(scope="module", params=AXES)
def numbers(request) -> torch.Tensor:
    draw = AXES[request.param]
    return torch.tensor([draw(i) for i in range(50_000)], dtype=torch.float64)


def chi_square_p(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """The probability of counts at least as far from the expected ones."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    half_df = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_df, statistic / 2))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ((123, "story-5", 0, 7), "7587427ce58c1dd5"),
        ((0, "", 0, 0), "9790f5eabde6d565"),
        ((-(2**70), "é:\ud800", 3, 1), "35f900dd608d04e1"),
    ],
)
def test_known_answers(name, digest) -> None:
    """Made with coreutils' `b2sum -l 64`, so that anyone can make them again."""
    assert uniform(*name) == (int(digest, 16) >> 11) / 2**53


@pytest.mark.skipif(shutil.which("b2sum") is None, reason="needs coreutils' b2sum")
def test_the_shell_command_of_the_docstring_makes_the_same_number() -> None:
    name = b"99:2:31:a record: with colons\n"
    run = subprocess.run(["b2sum", "-l", "64"], input=name, capture_output=True, check=True)
    assert uniform(99, "a record: with colons\n", 2, 31) == (int(run.stdout[:16], 16) >> 11) / 2**53


def test_no_two_names_run_together() -> None:
    names = [(1, "2", 3, 4), (12, "", 3, 4), (1, "", 23, 4), (1, "", 2, 34), (1, "4", 2, 3)]
    names += [(1, "1:2", 3, 4), (1, "4:2", 3, 4), (1, "2:", 3, 4), (1, ":2", 3, 4)]
    assert len({uniform(*name) for name in names}) == len(names)


def test_numbers_have_53_bits_and_stay_below_one(numbers) -> None:
    scaled = numbers * 2**53
    assert (scaled == scaled.round()).all()
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    assert 0.48 < (scaled % 2).mean() < 0.52


def test_numbers_are_uniform_by_kolmogorov_and_smirnov(numbers) -> None:
    n = len(numbers)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    ranked = numbers.sort().values
    distance = torch.maximum(steps[1:] - ranked, ranked - steps[:-1]).max()
    assert distance * n**0.5 < 1.95  # one in a thousand


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbours_are_independent(numbers, lag) -> None:
    cells = (numbers * 16).long()
    counts = torch.bincount(cells[:-lag] * 16 + cells[lag:], minlength=256)
    expected = torch.full((256,), (len(cells) - lag) / 256, dtype=torch.float64)
    assert chi_square_p(counts, expected) > 1e-3
