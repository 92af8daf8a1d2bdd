"""What a pickle of a few bytes can say again and again: the same list within a list within a list, which takes ages to
walk through, and keys that all collide, which make a dict slow."""

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_prep.limits import Budget, TooMuch

MAX_DEPTH = 100
REFERENCE = 8  # bytes
CONTAINERS = list | tuple | set | frozenset | dict
SIZED = CONTAINERS | str | bytes | bytearray | np.ndarray
# Keys whose author cannot choose what they collide with, as can one of ints over 64 bits and, at a price, of tuples.
KEYS = str | bytes | bool | float | None | np.generic
MAX_KEY = 1000  # parts of a tuple
COMPARISON = 16  # bytes copied take as long


class Refused(Exception):
    """The pickle asks for what no pack needs."""


class Keys:
    """Looks at every key of every dict before it goes in."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self._hashes: Counter[int] = Counter()

    def check(self, keys: Iterable[Any]) -> None:
        """Raises Refused or TooMuch for keys that collide, or take ages to hash."""
        for key in keys:
            if isinstance(key, tuple | frozenset):
                _refuse_large(key)
                self._hashes[hash(key)] += 1
                self._budget.spend(COMPARISON * self._hashes[hash(key)])
            elif isinstance(key, int) and key.bit_length() > 64:
                raise Refused("a key of over 64 bits")
            elif not isinstance(key, KEYS | int):
                raise Refused(f"a key of type {type(key).__name__}")


def _refuse_large(key: tuple[Any, ...] | frozenset[Any]) -> None:
    waiting, count = [key], 0
    while waiting:
        parts = waiting.pop()
        count += len(parts) + 1
        if count > MAX_KEY:
            raise Refused(f"a key of over {MAX_KEY} parts")
        waiting += [part for part in parts if isinstance(part, tuple | frozenset)]
        if any(isinstance(part, int) and part.bit_length() > 64 for part in parts):
            raise Refused("a key of over 64 bits")


def check_expanded(found: Any, most: int) -> None:
    """Raises TooMuch if the value has more than `most` bytes, with everything that stands there twice counted twice;
    Refused if it holds itself or is nested without need."""
    sizes: dict[int, int] = {}
    around: set[int] = set()  # the containers that the one looked at is in
    waiting = [found]
    while waiting:
        one = waiting[-1]
        if id(one) in sizes:
            waiting.pop()
            continue
        parts = _parts(one)
        inside = [part for part in parts if isinstance(part, SIZED)]
        if id(one) not in around and inside:
            around.add(id(one))
            if any(id(part) in around for part in inside):
                raise Refused("it holds something that holds itself")
            if len(around) > MAX_DEPTH:
                raise Refused(f"it is nested more than {MAX_DEPTH} deep")
            waiting += inside
            continue
        around.discard(id(one))
        waiting.pop()
        sizes[id(one)] = _own(one) + REFERENCE * len(parts) + sum(sizes[id(part)] for part in inside)
        if sizes[id(one)] > most:
            raise TooMuch


def _parts(one: Any) -> list[Any]:
    if isinstance(one, dict):
        return list(itertools.chain(one, one.values()))
    if isinstance(one, np.ndarray):
        return list(one.flat) if one.dtype.hasobject else []
    return list(one) if isinstance(one, CONTAINERS) else []


def _own(one: Any) -> int:
    """Returns the bytes of what is no container."""
    if isinstance(one, np.ndarray):
        return int(one.nbytes)
    return len(one) if isinstance(one, str | bytes | bytearray) else 0
