"""What is imported is not searched for garbage; what a command makes is."""

import gc
import subprocess
import sys

import pytest

from gptcli.cli.garbage import none_made


@pytest.fixture
def thawed():
    """What other tests froze stays so in the end, for it cannot be told apart."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_an_import_is_not_searched_again(thawed, tmp_path, monkeypatch):
    (tmp_path / "brought_in_by_a_test.py").write_text("values = [[] for _ in range(1000)]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with none_made():
        assert not gc.isenabled()
        import brought_in_by_a_test as brought
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(brought.values)
    del sys.modules[brought.__name__]


def test_garbage_is_still_found_where_nothing_was_imported(thawed):
    with none_made():
        pass
    assert gc.get_freeze_count() == 0


def test_it_stays_off_for_whoever_had_it_off():
    gc.disable()
    try:
        with none_made():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_pytorch_is_not_searched_by_a_command():
    code = (
        "import gc, sys; from gptcli.cli.computing import pytorch; pytorch(1);"
        "print(gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
