"""Bytes and counts in words, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.core.errors import UsageError
from gptcli.core.units import bytes_text, parse_bytes, plural


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (1023, "1,023 bytes"), (1024, "1.0 KiB"),
        (548_105_171, "522.7 MiB"), (2**30, "1.0 GiB"), (7e11, "651.9 GiB"),
    ],
)  # fmt: skip
def test_bytes_in_their_largest_unit(count: float, text: str) -> None:
    assert bytes_text(count) == text


def test_bytes_side_by_side_have_one_unit() -> None:
    assert bytes_text(6_551_175_168, "MiB", 2) == "6,247.69 MiB"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GB", 8 * 10**9), ("8gb", 8 * 10**9), ("8G", 8 * 10**9), ("8 GiB", 8 << 30),
        ("8gib", 8 << 30), ("1.5 GiB", 3 << 29), ("512MB", 512 * 10**6), ("512Mi", 512 << 20),
        ("64kB", 64_000), ("7", 7), ("7B", 7), ("7b", 7), (" 2 TiB ", 2 << 40),
    ],
)  # fmt: skip
def test_sizes_that_are_understood(text: str, count: int) -> None:
    assert parse_bytes(text, "fit") == count


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "8XB", "0", "0.0GB", "1e9", "8 gigs", "٣GB", "nan"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="fit: expected a size"):
        parse_bytes(text, "fit")


@given(st.integers(1, 10**12))
def test_what_is_printed_is_read_again(count: int) -> None:
    text = bytes_text(count).replace(",", "").replace(" bytes", "").replace(" byte", "")
    assert parse_bytes(text, "fit") == pytest.approx(count, rel=0.06)


def test_one_has_no_plural() -> None:
    assert (plural(1, "tensor"), plural(1234, "tensor")) == ("1 tensor", "1,234 tensors")
