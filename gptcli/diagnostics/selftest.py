"""Check known answers and properties on this machine, offline and in seconds.

A check never raises: an exception inside it is its result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import Tensor

from gptcli.checkpoint.load import load_model, save, weights_of
from gptcli.checkpoint.presets import PRESETS, preset_config
from gptcli.checkpoint.resolve import Target
from gptcli.core.errors import GptcliError
from gptcli.core.escape import shown
from gptcli.diagnostics.golden import DIGESTS, golden_digest
from gptcli.engine import library
from gptcli.engine.interface import Engine, Span
from gptcli.engine.pytorch import TorchEngine
from gptcli.generation.decode import Generation, Prompt
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence, Token
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel, untrained
from gptcli.model.parameters import count
from gptcli.model.shortcut import BOOK_GRADIENTS, demonstration
from gptcli.sampling.params import SamplingParams
from gptcli.sampling.sampler import uniform
from gptcli.tokenizer.encodings import from_ranks

# The parameters that the book prints, of the untied model and of the tied one.
COUNTS = {
    "gpt2-124m": (163_009_536, 124_412_160),
    "gpt2-355m": (406_212_608, 354_749_440),
    "gpt2-774m": (838_220_800, 773_891_840),
    "gpt2-1558m": (1_637_792_000, 1_557_380_800),
}
PROMPT = (15496, 11, 314, 716)  # "Hello, I am"
TOKENS = (27018, 24086, 47843, 30961, 42348, 7267, 49706, 43231, 47062, 34657)
# Made with coreutils' `b2sum -l 64` (see `gptcli.sampling.sampler.uniform`).
DRAWS = {
    (123, "story-5", 0, 7): 0x7587427CE58C1DD5,
    (0, "", 0, 0): 0x9790F5EABDE6D565,
    (-(2**70), "é:\ud800", 3, 1): 0x35F900DD608D04E1,
}
TEXT = "Zwölf Boxkämpfer 狐 jump\tover <|endoftext|> 🦊\u202e\n\x00's  end"
TOLERANCE = 1e-4  # relative, where sums may be taken in another order
_SMALL = GPTConfig(vocab_size=199, context_length=48, emb_dim=96, n_heads=4, n_layers=2)
_N_SEQUENCES = 5


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked.
        expected: the right answer, in words or numbers.
        found: this machine's answer, or the exception that was raised.
        holds: whether they agree.
        seconds: how long it took.
    """

    name: str
    expected: str
    found: str
    holds: bool
    seconds: float


Answer = tuple[str, str, bool]
"""`expected`, `found` and `holds` of a Check."""


def engine_of(model: GPTModel) -> Engine:
    """The engine that generates on this machine's CPU: the kernels, else PyTorch."""
    if library.why_unavailable():
        return TorchEngine(model)
    from gptcli.engine.native import NativeEngine  # noqa: PLC0415

    return NativeEngine(model.config, weights_of(model).tensors)


def names(*, quick: bool = False) -> list[str]:
    """The checks to run, in order; `quick` leaves out the one that builds a GPT-2 of 124M.

    Where the kernels were not built (no C compiler), PyTorch computes, and their check is left out.
    """
    left_out = {book_tokens} if quick else set()
    if not library.library_path().exists():
        left_out.add(kernel_bits)
    return [name for name, check in CHECKS.items() if check not in left_out]


def run(name: str) -> Check:
    """Run the check of this name."""
    start = perf_counter()
    try:
        with torch.random.fork_rng(devices=[]):
            expected, found, holds = CHECKS[name]()
    except GptcliError as error:
        expected, found, holds = "no error", str(error), False
    except Exception as error:  # noqa: BLE001  # a faulty machine can raise anything
        expected, found, holds = "no error", shown(f"{type(error).__name__}: {error}"), False
    return Check(name, expected, found, holds, perf_counter() - start)


def book_counts() -> Answer:
    """Parameters by arithmetic: against the book's counts, and those of a small model built."""
    wrong = []
    for name, published in COUNTS.items():
        counted = count(preset_config(PRESETS[name]))
        if (counted.untied, counted.tied) != published:
            wrong.append(f"{name} {counted.untied:,} and {counted.tied:,}")
    built = sum(parameter.numel() for parameter in untrained(_SMALL, 0).parameters())
    if built != count(_SMALL).total:
        wrong.append(f"a model of {count(_SMALL).total:,} has {built:,}")
    first = " and ".join(f"{number:,}" for number in COUNTS["gpt2-124m"])
    expected = f"four models as printed, 124M with {first}"
    return expected, ", ".join(wrong) or "four models as printed", not wrong


def book_gradients() -> Answer:
    """The five-layer demonstration, with shortcut connections and without."""
    worst = 0.0
    for use_shortcut, published in BOOK_GRADIENTS.items():
        found = demonstration(use_shortcut)
        errors = [abs(a / b - 1) for a, b in zip(found, published, strict=True)]
        worst = max(worst, *errors)
    return _within("ten gradients as printed, within", worst)


def book_tokens() -> Answer:
    """Ten greedy tokens of the untrained 124M model of seed 123: initialisation and decoding."""
    engine = engine_of(untrained(preset_config(PRESETS["gpt2-124m"]), 123))
    params = SamplingParams(max_new_tokens=len(TOKENS), temperature=0)
    generation = Generation(Prompt(engine, PROMPT, len(TOKENS)), params, seed=0)
    found = tuple(token.id for token in generation)
    return _ids(TOKENS), _ids(found), found == TOKENS


def draws() -> Answer:
    """Counter-based random numbers against digests of another program."""
    found = [uniform(*name) for name in DRAWS]
    expected = [(digest >> 11) / 2**53 for digest in DRAWS.values()]
    return _numbers(expected), _numbers(found), found == expected


def safetensors_round_trip() -> Answer:
    """Save a model and load it again, tied and untied: every bit is the same."""
    wrong = []
    for tie in (False, True):
        config = GPTConfig(**{**_SMALL.to_dict(), "tie_weights": tie, "qkv_bias": tie})
        model = untrained(config, 1)
        with TemporaryDirectory(prefix="gptcli-selftest-") as folder:
            save(model, Path(folder))
            weights = Path(folder) / "model.safetensors"
            again = load_model(Target("selftest", config, weights=weights))
        states = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
        wrong += [a for (a, x), (b, y) in states if a != b or not torch.equal(x, y)]
    return "every bit", shown(", ".join(wrong)) or "every bit", not wrong


def tokenizer_round_trip() -> Answer:
    """Encode text of many kinds and decode it, whole and streamed."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"en", b"end", b" j", b"um", "狐".encode()[:2], b"<|"]
    tokenizer = from_ranks("selftest", {token: rank for rank, token in enumerate(tokens)})
    ids = tokenizer.encode(TEXT)
    decoder = tokenizer.decoder()
    streamed = "".join(map(decoder.feed, ids)) + decoder.finish()
    holds = tokenizer.decode(ids) == streamed == TEXT and len(ids) < len(TEXT.encode())
    return shown(TEXT), shown(streamed), holds


def cached_decode() -> Answer:
    """PyTorch's logits of a decode, token by token, against those of one pass without a cache."""
    model, ids = untrained(_SMALL, 2), torch.arange(40)[None] * 7 % _SMALL.vocab_size
    with torch.inference_mode():
        expected, cache = model(ids), model.new_cache()
        steps = [model(ids[:, n : n + 1], cache) for n in range(ids.shape[1])]
    return _within("the same logits within", _relative_error(torch.cat(steps, 1), expected))


def engine_logits() -> Answer:
    """Logits of this machine's engine against those of the book's network."""
    ids = [n * 5 % _SMALL.vocab_size for n in range(48)]
    with torch.inference_mode():
        expected = untrained(_SMALL, 3)(torch.tensor([ids]))[0]
    engine = engine_of(untrained(_SMALL, 3))
    found = engine.step([Span(engine.new_cache(), ids, len(ids))])
    return _within("the same logits within", _relative_error(torch.from_numpy(found), expected))


def kernel_bits() -> Answer:
    """Logits of a fixed model at every width, by each build that this processor runs."""
    if reason := library.why_unavailable():
        return "compiled kernels", shown(reason), False
    usable = [build.name for build in library.builds() if build.is_supported]
    wrong = [
        f"{build} at {width}"
        for build in usable
        for width in DIGESTS
        if golden_digest(width, build) != DIGESTS[width]
    ]
    found = ", ".join(wrong) or f"the recorded bits by {', '.join(usable)}"
    return "the recorded bits", found, not wrong


def batch_invariance() -> Answer:
    """Sequences sampled one by one and as a batch: the same tokens and log-probabilities.

    Equal to the bit with the kernels; PyTorch rounds sums of a batch in another order.
    """
    alone, batched = _sampled(1), _sampled(_N_SEQUENCES)
    if library.why_unavailable():
        expected, tolerance = f"equal tokens, log-probabilities within {TOLERANCE:g}", TOLERANCE
    else:
        expected, tolerance = "equal tokens and bits", 0.0
    wrong = []
    for number in range(_N_SEQUENCES):
        (ids, logprobs), (others, found) = alone[number], batched[number]
        if ids != others or (_relative_error(found, logprobs) > tolerance):
            wrong.append(f"text {number}")
    return expected, ", ".join(wrong) or expected, not wrong


def _sampled(rows: int) -> list[tuple[list[int], Tensor]]:
    """Ids and log-probabilities of each sequence, decoded with `rows` at a time."""
    sampled: list[list[Token]] = [[] for _ in range(_N_SEQUENCES)]

    def job(number: int) -> Job:
        def watch(token: Token) -> bool:
            sampled[number].append(token)
            return False

        sequence = Sequence(
            prompt=[number + 1] * (number + 1),
            params=SamplingParams(max_new_tokens=3 + number),
            context=_SMALL.context_length,
            seed=5,
            record=str(number),
            logprobs=0,
        )
        return Job(sequence, watch=watch)

    for _ in Scheduler(engine_of(untrained(_SMALL, 5)), rows).run(map(job, range(_N_SEQUENCES))):
        pass
    return [
        (
            [token.id for token in tokens],
            torch.tensor([token.logprob for token in tokens], dtype=torch.float64),
        )
        for tokens in sampled
    ]


CHECKS: dict[str, Callable[[], Answer]] = {
    "the book's parameter counts": book_counts,
    "the book's gradients": book_gradients,
    "the book's ten tokens": book_tokens,
    "the stream of draws": draws,
    "safetensors round trip": safetensors_round_trip,
    "tokenizer round trip": tokenizer_round_trip,
    "cache and no cache": cached_decode,
    "engine and the book's network": engine_logits,
    "the same bits on every processor": kernel_bits,
    "texts alone and together": batch_invariance,
}


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _within(what: str, error: float) -> Answer:
    return f"{what} {TOLERANCE:g}", f"within {error:.1g}", error <= TOLERANCE


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids))


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.6f}" for value in values)
