"""A compact hash table from ids to line numbers: ten million ids take 270 MB.

An entry is 11 bytes of the id's SHA-256 (among ten million ids, two collide in one of 10^13 jobs)
and 5 bytes of the line number.
"""

from hashlib import sha256

_HASH, _ENTRY = 11, 16
_EMPTY = bytes(_ENTRY)
_INITIAL_ENTRIES = 1 << 4  # of a part, a power of 2


class IdTable:
    """256 hash tables, chosen by the hash's first byte, so that growing one copies little."""

    def __init__(self) -> None:
        self._parts = [_Part() for _ in range(256)]

    def __len__(self) -> int:
        return sum(part.count for part in self._parts)

    @property
    def size(self) -> int:
        """Bytes allocated for entries."""
        return sum(part.size for part in self._parts)

    def add(self, id: str, line: int) -> int | None:
        """The line that had this id before; None if it is new, and then it is remembered."""
        key = sha256(id.encode("utf-8", "surrogatepass")).digest()[:_HASH]
        return self._parts[key[0]].add(key, line)


class _Part:
    """A hash table with open addressing in one bytearray."""

    def __init__(self) -> None:
        self._table = bytearray(_INITIAL_ENTRIES * _ENTRY)
        self._mask = _INITIAL_ENTRIES - 1
        self.count = 0

    @property
    def size(self) -> int:
        return len(self._table)

    def add(self, key: bytes, line: int) -> int | None:
        at = self._find(key)
        entry = self._table[at : at + _ENTRY]
        if entry != _EMPTY:
            return int.from_bytes(entry[_HASH:], "big")
        self._table[at : at + _ENTRY] = key + line.to_bytes(_ENTRY - _HASH, "big")
        self.count += 1
        if self.count > 0.7 * (self._mask + 1):
            self._grow()
        return None

    def _find(self, key: bytes) -> int:
        """Byte offset of the key's entry, or of the free one where it belongs."""
        slot = int.from_bytes(key[:8], "big") & self._mask
        while True:
            at = slot * _ENTRY
            entry = self._table[at : at + _ENTRY]
            if entry[:_HASH] == key or entry == _EMPTY:
                return at
            slot = (slot + 1) & self._mask

    def _grow(self) -> None:
        old, size = self._table, 2 * (self._mask + 1)
        self._table, self._mask = bytearray(size * _ENTRY), size - 1
        for start in range(0, len(old), _ENTRY):
            entry = old[start : start + _ENTRY]
            if entry != _EMPTY:
                at = self._find(bytes(entry[:_HASH]))
                self._table[at : at + _ENTRY] = entry
