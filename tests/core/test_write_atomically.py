import errno
import os
from pathlib import Path

import pytest

from gptcli.core.errors import RunError
from gptcli.core.files import write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first", b"", b"second" * 1000):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["open", "write_bytes", "fsync", "replace"])
def test_whatever_fails_the_old_file_is_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os if call in {"open", "fsync"} else Path, call, fail)
        with pytest.raises(RunError, match="No space left on device"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_function_can_write_the_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", lambda path: path.write_text("text", encoding="utf-8"))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file or directory"):
        write_atomically(tmp_path / "missing" / "file", b"")
