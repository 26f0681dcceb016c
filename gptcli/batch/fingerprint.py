"""Digests of a model for the header of a batch output: equal digests, equal texts.

Names of files and machines are left out, so that copies of a model count as one.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from gptcli.checkpoint.header import Header
from gptcli.checkpoint.presets import PRESETS
from gptcli.checkpoint.weights import Checkpoint
from gptcli.core.files import open_regular, read_exactly, sha256_of
from gptcli.generation.llm import LLM
from gptcli.model.config import GPTConfig
from gptcli.tokenizer.tokenizer import Tokenizer

_PIECE = 1 << 12  # bytes hashed of each tensor: enough to distinguish two checkpoints of one shape
# Every known pre-tokenizer splits this differently.
_PROBE = " It's 1234567 naïve\tcafés  in 東京,\r\n\n isn't IT? 🙂"


def identity(llm: LLM, *, full: bool = False) -> dict[str, Any]:
    """What the header of a batch says of the model.

    `model` is a preset's name, or None: a path is no property of a model. `full` hashes every
    byte of the weights. `machine` is left out where every machine gives the same bits.
    """
    found = {
        "model": llm.name if llm.name in PRESETS else None,
        "config": config_digest(llm.config),
        "weights": weights_digest(llm.checkpoint, full=full),
        "tokenizer": tokenizer_digest(llm.tokenizer),
        "dtype": llm.weight_dtype,
    }
    return found if llm.is_native else {**found, "machine": machine(llm.spec.device)}


def config_digest(config: GPTConfig) -> str:
    """Digest of the config keys that shape the network (not the tokenizer's file name)."""
    network = config.with_drop_rate(0.0).to_dict()
    shape = {k: v for k, v in network.items() if k not in {"tokenizer", "drop_rate"}}
    return _digest(json.dumps(shape, sort_keys=True).encode())


def weights_digest(checkpoint: Checkpoint | None, *, full: bool) -> str:
    """`untrained`, or a digest behind the way it was made: `headers:...`, `full:...`."""
    if checkpoint is None:
        return "untrained"
    headers = checkpoint.headers
    if full:
        return f"full:{sha256_of(header.path for header in headers)}"
    return f"headers:{_digest(b''.join(part for h in headers for part in _parts_of(h)))}"


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Digest of every token's bytes, the end-of-text token and the pre-tokenization."""
    ends = " ".join(map(str, sorted(tokenizer.eos_ids))) or "None"
    hash = sha256(f"{tokenizer.n_vocab} {ends} {tokenizer.prompt(_PROBE)}".encode())
    for id in range(tokenizer.n_vocab):
        token = tokenizer.token_bytes(id)
        hash.update(len(token).to_bytes(4, "big") + token)
    return hash.hexdigest()


def machine(device: str) -> Mapping[str, str]:
    """What may change the last bit of a sum: the kind of processor and the PyTorch version."""
    import torch  # noqa: PLC0415  # only a job that will compute needs it

    kind = device.partition(":")[0]
    if kind == "cuda" and torch.cuda.is_available():
        processor = torch.cuda.get_device_name(device)
    else:
        processor = torch.backends.cpu.get_cpu_capability()
    version = torch.__version__.partition("+")[0]
    return {"device": kind, "processor": processor, "torch": version}


def _parts_of(header: Header) -> list[bytes]:
    """The header, the file's size, and the beginning of each tensor's data."""
    tensors = header.tensors.values()
    layout = [(t.name, t.dtype, t.shape, t.start, t.end) for t in tensors]
    parts = [json.dumps([header.size, layout]).encode()]
    with open_regular(header.path) as fd:
        parts += [read_exactly(fd, min(_PIECE, t.nbytes), t.start) for t in tensors]
    return parts


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
