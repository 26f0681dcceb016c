"""exp, erf and the activations of the kernels against Python's own and the definitions."""

import ctypes
import math
from typing import Any

import numpy as np
import pytest
from native_models import ACTIVATIONS

from gptcli.engine import library
from gptcli.engine.native import ACTIVATION_NUMBERS

pytestmark = pytest.mark.skipif(
    library.why_unavailable() is not None, reason="needs the kernels, and so a C compiler"
)

EXP, ERF = -1, -2
Array = np.ndarray[Any, Any]


def applied(function: int, x: Array) -> Array:
    """By every build, which must agree to the bit."""
    found = None
    for build in library.builds():
        if build.is_supported:
            y = np.empty_like(x)
            pointers = (ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
            library.load().gptcli_apply(build.number, function, *pointers, len(x))
            if found is not None:
                assert (y.view(np.int32) == found.view(np.int32)).all(), build.name
            found = y
    assert found is not None
    return found


def everywhere() -> Array:
    """A million floats: every exponent, both signs, many mantissas."""
    bits = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    return x[np.isfinite(x)].copy()


def units(found: Array, exact: Array) -> Array:
    """Distance in units of the last place of the exact value, subnormals included."""
    spacing = np.spacing(np.maximum(np.abs(exact), 2.0**-126).astype(np.float32))
    return np.abs(found.astype(np.float64) - exact) / spacing


def test_exp_is_within_one_unit_of_the_last_place_everywhere() -> None:
    x = np.concatenate([everywhere(), np.linspace(-104, 89, 1 << 18, dtype=np.float32)])
    inside = (x > -103.97) & (x < 88.72)
    found = applied(EXP, x)
    exact = np.array([math.exp(float(v)) for v in x[inside]])
    assert units(found[inside], exact).max() < 1
    assert (found[x < -104] == 0).all()
    assert np.isinf(found[x > 88.73]).all()
    assert (applied(EXP, np.array([0.0, -0.0], np.float32)) == 1).all()


def test_erf_is_within_two_ten_millionths_everywhere() -> None:
    x = np.concatenate([everywhere(), np.linspace(-6, 6, 1 << 18, dtype=np.float32)])
    exact = np.array([math.erf(float(v)) for v in x])
    assert np.abs(applied(ERF, x) - exact).max() < 2e-7
    small = np.linspace(-0.9, 0.9, 4096, dtype=np.float32)
    assert units(applied(ERF, small), np.array([math.erf(float(v)) for v in small])).max() < 3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_definitions(name: str) -> None:
    x = np.linspace(-30, 30, 1 << 18, dtype=np.float32)
    found = applied(ACTIVATION_NUMBERS[name], x)
    np.testing.assert_allclose(found, ACTIVATIONS[name](x.astype(np.float64)), atol=1e-6, rtol=2e-6)


@pytest.mark.parametrize("function", [EXP, ERF, *sorted(ACTIVATION_NUMBERS.values())])
def test_not_a_number_stays_one_and_no_padding_leaks(function: int) -> None:
    for length in range(1, 40):
        x = np.full(length, 0.5, np.float32)
        x[-1] = np.nan
        found = applied(function, x)
        assert np.isnan(found[-1])
        assert np.isfinite(found[:-1]).all()
