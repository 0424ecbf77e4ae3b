"""Examples of the fifteen tasks: input and answer, drawn as the benchmark does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

Draw = random.Random
Example = tuple[str, str]
"""Input (with its end mark, if the machine needs one) and answer."""


def _bits(length: int, draw: Draw) -> str:
    return "".join(draw.choice("01") for _ in range(length))


def _little(number: int) -> str:
    return f"{number:b}"[::-1]


def two_numbers(sign: str, combine: Callable[[int, int], int]) -> Callable[[int, Draw], Example]:
    def example(length: int, draw: Draw) -> Example:
        length = max(length, 3)
        first = draw.randint(1, length - 2)
        n, m = draw.randint(1, 2**first - 1), draw.randint(1, 2 ** (length - 1 - first) - 1)
        padded = _little(n).ljust(first, "0"), _little(m).ljust(length - 1 - first, "0")
        return f"{padded[0]}{sign}{padded[1]}.", _little(combine(n, m)) + "2"

    return example


def _expression(length: int, draw: Draw) -> tuple[str, int]:
    """A bracketed sum of exactly this length and its value mod 5."""
    if length < 5:
        digit = draw.randrange(5)
        text = {1: "{}", 2: "-{}", 3: "({})", 4: "(-{})"}[length].format(digit)
        return text, (-digit if "-" in text else digit) % 5
    left = draw.randint(1, length - 4)
    (a, x), (b, y) = _expression(left, draw), _expression(length - 3 - left, draw)
    sign = draw.choice("+-")
    return f"({a}{sign}{b})", (x + y if sign == "+" else x - y) % 5


def brackets_example(length: int, draw: Draw) -> Example:
    text, value = _expression(length, draw)
    return text, str(value)


def equation_example(length: int, draw: Draw) -> Example:
    text, value = _expression(max(length - 2, 1), draw)
    at = draw.choice([i for i, a in enumerate(text) if a.isdigit()])
    return f"{text[:at]}x{text[at + 1 :]}={value}", text[at]


def arithmetic_example(length: int, draw: Draw) -> Example:
    signs = "".join(f"{draw.choice('+-*')}{draw.randrange(5)}" for _ in range((length - 1) // 2))
    text = f"{draw.randrange(5)}{signs}"
    total, term, role = 0, 0, "+"
    for a in text:
        if a.isdigit():
            term = {"+": int(a), "-": -int(a), "*": term * int(a)}[role]
        else:
            total, role = (total, a) if a == "*" else (total + term, a)
    return text, str((total + term) % 5)


def stack_example(length: int, draw: Draw) -> Example:
    held = draw.randint(1, max(1, length - 1))
    text = _bits(held, draw) + "".join(draw.choice("pab") for _ in range(length - held))
    stack: list[str] = []
    for a in text:
        if a == "p":
            del stack[-1:]
        else:
            stack.append({"a": "0", "b": "1"}.get(a, a))
    return text, "".join(stack[::-1]) + "2"


def missing_example(length: int, draw: Draw) -> Example:
    half = _bits(max(length // 2, 1), draw)
    text, at = half * 2, draw.randrange(2 * len(half))
    return f"{text[:at]}2{text[at + 1 :]}{'3' * (length % 2)}.", text[at]


def sqrt_example(length: int, draw: Draw) -> Example:
    number = draw.randint(1, 2**length - 1)
    return f"{number:0{length}b}.", f"{math.isqrt(number):0{(length + 1) // 2}b}"


def on_bits(answer: Callable[[str], str], end: str = "") -> Callable[[int, Draw], Example]:
    def example(length: int, draw: Draw) -> Example:
        text = _bits(length, draw)
        return text + end, answer(text)

    return example


def cycle_example(length: int, draw: Draw) -> Example:
    text = "".join(draw.choice("012") for _ in range(length))
    return text, str((text.count("1") - text.count("2")) % 5)


def sort_example(length: int, draw: Draw) -> Example:
    text = "".join(draw.choice("01234") for _ in range(length))
    return text, "".join(sorted(text))
