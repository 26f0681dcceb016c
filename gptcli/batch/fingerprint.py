"""Digests of a model for the header of a batch output: models with equal digests write equal texts.

Paths and host names are left out, so that copies of a model have equal digests.
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

_SAMPLE_BYTES = 1 << 12  # hashed of each tensor: enough to tell two checkpoints of one shape apart
# Every known pre-tokenizer splits this differently.
_SAMPLE_TEXT = " It's 1234567 naïve\tcafés  in 東京,\r\n\n isn't IT? 🙂"


def identity(llm: LLM, *, full: bool = False) -> dict[str, Any]:
    """What the header of a batch says about the model.

    `model` is a preset's name, or None for a path. `full` hashes every byte of the weights.
    `machine` is left out for the native engine, which gives the same bits everywhere.
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
    """Digest of the keys that change what the network computes."""
    network = config.with_drop_rate(0.0).to_dict()
    shape = {k: v for k, v in network.items() if k not in {"tokenizer", "drop_rate"}}
    return _digest(json.dumps(shape, sort_keys=True).encode())


def weights_digest(checkpoint: Checkpoint | None, *, full: bool) -> str:
    """`untrained`, `headers:DIGEST` or, of every byte, `full:DIGEST`."""
    if checkpoint is None:
        return "untrained"
    headers = checkpoint.headers
    if full:
        return f"full:{sha256_of(header.path for header in headers)}"
    return f"headers:{_digest(b''.join(part for h in headers for part in _parts_of(h)))}"


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Digest of every token's bytes, the end-of-text token and the pre-tokenization."""
    ends = " ".join(map(str, sorted(tokenizer.eos_ids))) or "None"
    hash = sha256(f"{tokenizer.n_vocab} {ends} {tokenizer.encode_prompt(_SAMPLE_TEXT)}".encode())
    for id in range(tokenizer.n_vocab):
        token = tokenizer.token_bytes(id)
        hash.update(len(token).to_bytes(4, "big") + token)
    return hash.hexdigest()


def machine(device: str) -> Mapping[str, str]:
    """The processor and the PyTorch version, which may change the last bits of a sum."""
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
        parts += [read_exactly(fd, min(_SAMPLE_BYTES, t.nbytes), t.start) for t in tensors]
    return parts


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
