"""What a file is that should be safetensors and is not, by its first bytes. Knows no paths."""

_PICKLE = (
    "this is a PyTorch pickle; gptcli reads only safetensors and never unpickles",
    "Save the model as safetensors",
)
_PAGE = ("this is a web page, not weights", "Download the file itself")
_PACKED = "Unpack it first"

# Longest first where one begins another.
_BEGINNINGS: tuple[tuple[bytes, tuple[str, str]], ...] = (
    (
        b"version https://git-lfs",
        ("this is a Git LFS pointer, not weights", 'Run "git lfs pull"'),
    ),
    (b"<!doctype html", _PAGE),
    (b"<html", _PAGE),
    (b"<?xml", ("this is XML, perhaps a server's error, not weights", "Download it again")),
    (b"pk\x03\x04", _PICKLE),  # torch.save writes a ZIP around its pickle
    (b"\x80\x02", _PICKLE),
    (b"\x80\x03", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (b"gguf", ("this is a GGUF file of llama.cpp", "gptcli reads only safetensors")),
    (b"\x1f\x8b", ("this is a gzip archive", _PACKED)),
    (b"\x28\xb5\x2f\xfd", ("this is a Zstandard archive", _PACKED)),
    (b"\xfd7zxz", ("this is an xz archive", _PACKED)),
    (b"\x93numpy", ("this is a NumPy array", "gptcli reads only safetensors")),
    (b"\x89hdf", ("this is an HDF5 file, as TensorFlow saves", "gptcli reads only safetensors")),
    (b"{", ("this is JSON, not weights", "A config goes to --config")),
)


def impostor(first: bytes) -> tuple[str, str] | None:
    """The first bytes of a file → what it is and what to do, or None if that is not clear."""
    if not first:
        return "the file is empty", "Download it again"
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((found for begin, found in _BEGINNINGS if text.startswith(begin)), None)
