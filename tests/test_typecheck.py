"""Types and shapes are checked in every call of an instrumented function."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor
from typecheck import instrument


@instrument
def add(x: Float[Tensor, "batch n"], y: Float[Tensor, "batch n"], times: float = 1.0) -> Tensor:
    return x + times * y


@instrument
def first(x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    return x[:, 0] if len(x) < 9 else x[0]


@instrument
def numbers(n: int, *, wrong: bool = False) -> Iterator[int]:
    return [n] if wrong else iter([n])


@instrument
def total(numbers: list[int]) -> int:
    return sum(map(int, numbers))


@instrument
def over(offset: Float[Tensor, "n"]) -> Callable[[Tensor], Tensor]:
    @instrument
    def shift(x: Float[Tensor, "n"], *others: "Float[Tensor, 'n']") -> Float[Tensor, "n"]:
        return sum(others, x) + offset

    return shift


@instrument
@dataclass
class Pair:
    x: Float[Tensor, "n"]
    y: Float[Tensor, "n"]


TWO, THREE = torch.zeros(2), torch.zeros(3)
WRONG = {
    "a type": lambda: add(torch.zeros(2, 3), [0.0]),
    "a list": lambda: total(["2"]),  # with the result of the right call
    "a number": lambda: add(torch.zeros(2, 3), torch.zeros(2, 3), times="1"),
    "a dtype": lambda: first(torch.zeros(2, 3).long()),
    "dimensions": lambda: first(TWO),
    "two arguments": lambda: add(torch.zeros(2, 3), torch.zeros(2, 4)),
    "a result": lambda: first(torch.zeros(9, 3)),
    "an iterator": lambda: numbers(1, wrong=True),
    "a closure": lambda: over(TWO)(TWO, THREE),
    "a field": lambda: Pair(TWO, y=THREE),
}


def call_right(n):
    assert add(torch.ones(n, n + 1), torch.ones(n, n + 1), 2).sum() == 3 * n * (n + 1)
    assert over(torch.ones(n))(first(torch.zeros(n, n + 1))).sum() == n
    assert len(Pair(torch.zeros(n), torch.zeros(n)).x) == next(numbers(n))
    assert total([n]) == n


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_or_result_is_refused(name):
    for _ in range(2):  # the check is built in the first call, and right calls are remembered
        with pytest.raises(BeartypeCallHintViolation):
            WRONG[name]()
        call_right(2)


def test_right_ones_are_accepted_and_a_call_inside_another_has_its_own_sizes(unchecked):
    jaxtyping.config.update("jaxtyping_disable", False)
    for n in (2, 3):
        call_right(n)
    jaxtyping.config.update("jaxtyping_disable", True)
    assert len(first(torch.zeros(9, 3))) == 3
