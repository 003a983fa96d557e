"""Damage to files, accidental and by attackers; seeded, so that a case can be repeated."""

import random
from collections.abc import Callable

INTERESTING = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x80" + b"\x00" * 7, b"-1", b"99999999999", b"\n")


def mutated(content: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """Return the content after one to four kinds of damage; others: files that parts may be taken from."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(_MUTATIONS)(content, rng)
        if others and rng.random() < 0.1:
            content = _spliced(content, rng.choice(others), rng)
    return content


def _place(content: bytes, rng: random.Random) -> tuple[int, int]:
    """Return begin and end of a part of any length, mostly short; half of them at borders of tar blocks."""
    begin = rng.randrange(len(content) + 1)
    length = rng.choice((1, 4, 512, 1024, rng.randrange(len(content) + 1)))
    if rng.random() < 0.5:
        begin, length = begin // 512 * 512, -(-length // 512) * 512
    return begin, min(len(content), begin + length)


def _flip_bits(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 16)) if content else 0):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _zero(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    return content[:begin] + bytes(end - begin) + content[end:]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _remove(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    return content[:begin] + content[end:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    return content[:begin] + content[begin:end] * rng.choice((2, 3)) + content[end:]


def _insert(content: bytes, rng: random.Random) -> bytes:
    begin, _ = _place(content, rng)
    return content[:begin] + rng.choice(INTERESTING) + content[begin:]


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    begin, _ = _place(content, rng)
    value = rng.choice(INTERESTING)
    return content[:begin] + value + content[begin + len(value) :]


def _spliced(content: bytes, other: bytes, rng: random.Random) -> bytes:
    begin, end = _place(other, rng)
    at, _ = _place(content, rng)
    return content[:at] + other[begin:end] + content[at:]


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bits,
    _flip_bits,
    _zero,
    _cut,
    _remove,
    _repeat,
    _insert,
    _overwrite,
)
