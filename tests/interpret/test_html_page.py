"""The HTML page: one file that asks nothing of a network, and works in a browser."""

import base64
import json
import re
import subprocess
import sys
from hashlib import sha256

import browser as browsers
import pytest
import torch
from emission import environment
from tiny_directory import write_tiny

from gptcli.cli import run
from gptcli.interpret.activations import packed_attention
from gptcli.interpret.html_page import MOST_MAP_BYTES, SCRIPTS, page

FILES = {"name": "m", "config": None, "architecture": None, "weights": None}
TEXT = "ab <b>&\u202e\x1b 'é\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page with everything: text, gradients, tensors with their values."""
    directory = write_tiny(tmp_path_factory.mktemp("m") / "<tiny> & 'co'")
    path = directory.parent / "page.html"
    arguments = ["--prompt", TEXT, "--gradients", "--stats", "--html", str(path)]
    assert run(["inspect", str(directory), *arguments]) == 0
    return path


def data_of(text):
    """What the page's script will read, by the rules of HTML: up to the first end tag."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    return json.loads(found[1])


def test_it_holds_the_documents_that_json_prints(written, tmp_path, capsys):
    data = data_of(written.read_text(encoding="utf-8"))
    directory = str(written.parent / "<tiny> & 'co'")
    assert run(["inspect", directory, "--prompt", TEXT, "--gradients", "--json"]) == 0
    assert data["probe"] == json.loads(capsys.readouterr().out)
    assert run(["inspect", directory, "--stats", "--json"]) == 0
    assert data["files"] == json.loads(capsys.readouterr().out)
    assert list(data["maps"]) == ["0", "1", "2"]


def test_its_policy_allows_its_own_script_and_style_and_nothing_else(written):
    text = written.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    for tag in ("script", "style"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_it_names_no_address(written):
    text = written.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|url\(|@import|src=|<link rel=\"(?!icon)", text)


@pytest.mark.parametrize("name", ["</script><script>alert(1)//", "<!--<script>", "@DATA@", "&amp;"])
def test_a_name_cannot_leave_its_place(name):
    text = page({**FILES, "name": name})
    assert data_of(text)["files"]["name"] == name
    assert text.lower().count("</script") == 2
    assert text.count("<script") == 2


def test_every_script_is_part_of_it():
    from importlib.resources import files

    names = {path.name for path in files("gptcli.interpret").joinpath("html").iterdir()}
    assert names == {*(f"{name}.js" for name in SCRIPTS), "page.html", "page.css"}


def test_packed_weights_are_those_of_the_map():
    weights = torch.randn(3, 9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    weights = weights.softmax(-1)
    data = iter(packed_attention(weights))
    for head in weights.tolist():
        for i, row in enumerate(head):
            for value in row[: i + 1]:
                assert (next(data) / 255) ** 2 == pytest.approx(value, abs=0.004)
    assert next(data, None) is None


def test_too_many_maps_are_left_out_with_a_word():
    data = data_of(page(FILES, None, {0: bytes(MOST_MAP_BYTES), 1: b"1"}))
    assert data["maps"] == {}
    assert "too long" in data["maps_note"]


def test_a_page_of_files_needs_no_torch(tmp_path):
    code = (
        "import sys; from gptcli.cli import run; code = run(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    path = tmp_path / "p.html"
    command = [sys.executable, "-c", code, "inspect", "gpt2-124m", "--html", str(path)]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    assert data_of(path.read_text(encoding="utf-8"))["probe"] is None


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    command = browsers.find()
    if command is None:
        pytest.skip("needs Chromium")
    opened = browsers.Browser(command, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


SIZES = [(1280, 900, "light"), (1280, 900, "dark"), (390, 844, "light"), (390, 844, "dark")]


@pytest.mark.parametrize(("width", "height", "scheme"), SIZES)
def test_a_browser_draws_all_of_it(browser, written, width, height, scheme):
    browser.open(written, width, height, scheme)
    assert browser.complaints() == []
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page is too wide"
    ids = browser.run("[...document.querySelectorAll('section')].map(s => s.id).join(' ')")
    assert ids == "text next attention lens activations gradients parameters"
    tokens = len(TEXT.encode())
    assert browser.run("document.querySelectorAll('#text .token').length") == tokens
    assert browser.run("document.querySelectorAll('.heads canvas').length") == 3 * 2
    assert browser.run("document.querySelectorAll('#lens td').length") == (3 + 1) * tokens
    assert browser.run("document.querySelectorAll('.plot svg').length") == 4 + 1 + 1
    # embeddings, 3 blocks of 4 + 2 linear layers and 2 norms, the final norm, the output head
    assert browser.run("document.querySelectorAll('.tree button').length") == 2 + 3 * 8 + 2
    assert browser.run("document.querySelectorAll('.histogram').length") == 2 + 3 * 13 + 3
    assert "Bad" not in browser.run("document.body.innerText")
    assert "NaN" not in browser.run("document.body.innerText")
    dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(246, 247, 249)"
    assert dark == (scheme == "dark")
    assert len(browser.screenshot()) > 10_000, "nothing is seen"


def test_areas_are_as_large_as_their_shares(browser, written):
    browser.open(written, 1280, 900, "light")
    boxes = browser.run(
        "[...document.querySelectorAll('.tree button')].map(b =>"
        " [b.getAttribute('aria-label'), b.offsetWidth * b.offsetHeight])"
    )
    whole = sum(area for _, area in boxes)
    shares = [float(re.search(r"([\d.]+)%", label)[1]) / 100 for label, _ in boxes]
    assert sum(shares) == pytest.approx(1, abs=0.005)
    for share, (label, area) in zip(shares, boxes, strict=True):
        assert area / whole == pytest.approx(share, rel=0.1, abs=0.004), label


def test_it_answers_to_clicks_and_keys(browser, written):
    browser.open(written, 1280, 900, "light")
    title = "document.querySelector('#attention .map').previousSibling.textContent"
    assert browser.run(title) == "Block 2, head 0"
    browser.run("document.querySelector('[aria-label=\"Block 1, head 1\"]').click()")
    assert browser.run(title) == "Block 1, head 1"
    browser.run(
        "document.querySelector('.map').dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'ArrowRight', bubbles: true}))"
    )
    assert browser.run(title) == "Block 2, head 0"
    browser.run("document.querySelector('#lens td').click()")
    assert "After embedding" in browser.run("document.querySelector('#lens').innerText")
    before = browser.screenshot()
    browser.run("document.querySelector('#theme').click()")
    assert browser.run("document.documentElement.dataset.theme") == "dark"
    assert browser.screenshot() != before
    assert browser.complaints() == []


def test_what_would_turn_a_line_around_is_spelt_out(browser, written):
    browser.open(written, 1280, 900, "light")
    shown = browser.run("document.body.innerText")
    assert not set(shown) & {"\u202e", "\x1b"}
    assert browser.run("document.querySelector('#name').textContent").endswith("<tiny> & 'co'")


def test_a_page_of_files_alone_draws_too(browser, tmp_path):
    path = tmp_path / "p.html"
    assert run(["inspect", "gpt2-xl", "--html", str(path)]) == 0
    browser.open(path, 390, 844, "light")
    assert browser.complaints() == []
    assert browser.run("document.querySelectorAll('section').length") == 1
    assert browser.run("document.documentElement.scrollWidth") <= 390
