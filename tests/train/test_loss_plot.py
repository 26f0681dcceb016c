import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

from gptcli.train.loss_plot import HEIGHT, WIDTH, Chart, binned, png, svg, text_curve

CHART = Chart(
    {
        "training loss": [(step, 5 - step / 30) for step in range(1, 100)],
        "valid <&>": [(50, 2.0), (99, 1.5)],
    }
)


def pixels(data: bytes) -> np.ndarray:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(kind + body)
        packed += body if kind == b"IDAT" else b""
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(HEIGHT, 1 + 3 * WIDTH)
    return rows[:, 1:].reshape(HEIGHT, WIDTH, 3)


def test_a_png_holds_the_line_where_it_belongs() -> None:
    image = pixels(png(CHART))
    x, y = (round(value) for value in CHART.to_pixels((50, 5 - 50 / 30)))
    near = image[y - 2 : y + 4, x - 2 : x + 3].reshape(-1, 3)
    assert (near == [0x2F, 0x6D, 0xB5]).all(axis=1).any()


def test_an_svg_is_well_formed_whatever_the_names() -> None:
    root = ET.fromstring(svg(CHART))
    lines = root.findall("{*}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [99, 2]
    assert "valid <&>" in [text.text for text in root.findall("{*}text")]


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 2.0), (2, 2.0)]])
def test_a_chart_may_have_nothing_to_span(points: list[tuple[float, float]]) -> None:
    ET.fromstring(svg(Chart({"loss": points})))
    pixels(png(Chart({"loss": points})))


@pytest.mark.parametrize("count", [0, 1, 5, 63, 64, 1000])
def test_bins_are_means_that_leave_nothing_out(count: int) -> None:
    values = [float(n) for n in range(count)]
    means = binned(values, 64)
    assert len(means) == min(64, count)
    assert means == sorted(means)
    if count % 64 == 0 and count:
        assert sum(means) / len(means) == pytest.approx(sum(values) / count)


def test_a_curve_falls_as_its_values_do() -> None:
    lines = text_curve([10 - n / 10 for n in range(100)], width=40, height=5).split("\n")
    assert len(lines) == 5
    assert [len(line) for line in lines] == sorted(len(line) for line in lines)
    assert max(map(len, lines)) <= 40
