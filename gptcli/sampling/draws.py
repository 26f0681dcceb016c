"""The counter-based stream of random numbers: a draw depends on its name and on nothing else.

Knows no tensors and keeps no state, so a text never depends on its neighbours, the batch size,
the order, a resume or the number of workers.
"""

from hashlib import blake2b


def uniform(seed: int, record: str, sample: int, position: int) -> float:
    """A number in [0, 1), a multiple of 2**-53, for one token of one sample of one record.

    The 8-byte BLAKE2b digest of the UTF-8 text `seed:sample:position:record` (decimal integers;
    the record comes last, so no record can imitate another's numbers), read as a big-endian
    integer; its upper 53 bits divided by 2**53. In a shell, the first 16 hex digits of
    `printf %s 123:0:7:story-5 | b2sum -l 64`.

    Args:
        seed: the job's seed, any integer.
        record: which prompt of a job; "" where there is only one.
        sample: which completion of the prompt, from 0.
        position: which new token of the completion, from 0.
    """
    name = f"{seed}:{sample}:{position}:{record}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 11) * 2.0**-53
