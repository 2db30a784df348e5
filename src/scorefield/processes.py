"""Many processes that act as one: which one this is, and what they tell each other.

    g = Σ_r Σ_{i ∈ rows of r} ∇ℓᵢ / N,    the rows of r: ⌊rN/R⌋ ≤ i < ⌊(r+1)N/R⌋

`torchrun` and `accelerate launch` start R processes and say in the environment who each is. What
is random is a function of the position in the batch of all, so that sums are all that has to be
exchanged: torch.distributed does that alone. Of Accelerate its launcher is used; its samplers,
gradient averaging and mixed precision would each have to be turned off. Outside of a group, and in
a process that is alone, every function here does nothing, or answers for one process.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=1)
"""How long the others wait while the first one writes files or draws a grid."""

Item = TypeVar("Item")


def join() -> None:
    """Meet the other processes of a launcher; nothing happens where there are none."""
    if dist.is_initialized() or not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return
    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device(torch.device("cuda")))
    # numbers on the CPU go by gloo, gradients on a GPU by NCCL
    fast = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if fast else "gloo", timeout=PATIENCE)
    atexit.register(_part)


def _part() -> None:
    """Leave the group: a thread of it that still holds a message would abort a Python that ends."""
    dist.destroy_process_group()
    time.sleep(0.1)  # some stay on, and need a moment to let go


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0


def device(wanted: torch.device) -> torch.device:
    """The GPU of this process, where GPUs are wanted and there are many processes."""
    local = os.environ.get("LOCAL_RANK")
    if wanted.type != "cuda" or local is None or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return wanted
    if int(local) >= torch.cuda.device_count():
        raise ValueError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes on a machine with "
            f"{torch.cuda.device_count()} GPUs: start as many as there are GPUs, or hide these by "
            "CUDA_VISIBLE_DEVICES="
        )
    return torch.device("cuda", int(local))


def share(n: int, rank: int, world: int) -> range:
    """The positions, of n, that are a process's; some processes have one more than others."""
    return range(rank * n // world, (rank + 1) * n // world)


def mine(n: int) -> slice:
    """This process's share of n rows."""
    rows = share(n, rank(), world())
    return slice(rows.start, rows.stop)


# ── What they tell each other ────────────────────────────────────────────────────────────────────


def total(x: Tensor) -> Tensor:
    """The sum over all processes, written into x, the same bits in each."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def highest(number: int) -> int:
    """The largest of the processes' numbers; none goes on before all have come here."""
    if world() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


@contextmanager
def in_turn() -> Iterator[None]:
    """The first process does this before the others do, who find it done."""
    if not first():
        highest(0)
    yield
    if first():
        highest(0)


def told(item: Item) -> Item:
    """What the first process has."""
    if world() == 1:
        return item
    items = [item]
    dist.broadcast_object_list(items)
    return items[0]


def agreed(**facts: object) -> None:
    """Refuse to go on with processes that know different things; and wait for all of them."""
    if world() == 1:
        return
    theirs = everyone(facts)
    for name in facts:
        found = [other[name] for other in theirs]
        if any(other != found[0] for other in found):
            raise ValueError(
                f"{name} is not the same in all processes: {', '.join(map(str, found))}; let all "
                "see the same files by the same paths, and begin at the same time"
            )


def everyone(item: Item) -> list[Item]:
    """What each process has, in each of them."""
    items = [item] * world()
    if world() > 1:
        dist.all_gather_object(items, item)
    return items


def dealt(pieces: Sequence[Item]) -> Sequence[Item]:
    """Those pieces of work that are this process's: they are dealt like cards."""
    return pieces[rank() :: world()]


def gathered(own: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> list[Tensor]:
    """All pieces, in order and in each process, of which each has made those dealt to it.

    Args:
        own: this process's.
        sizes: rows of each piece.
        like: one row, of the right type and device.
    """
    if world() == 1:
        return list(own)
    pieces = [torch.empty(size, *like.shape, dtype=like.dtype) for size in sizes]
    for piece, made in zip(dealt(pieces), own, strict=True):
        piece.copy_(made)
    for number, piece in enumerate(pieces):
        dist.broadcast(piece, number % world())
    return [piece.to(like.device) for piece in pieces]


# ── What a launcher wants, and does not get ──────────────────────────────────────────────────────


def remarks(environment: Mapping[str, str]) -> list[str]:
    """What somebody who used `accelerate launch` should know, for it says nothing itself."""
    precision = environment.get("ACCELERATE_MIXED_PRECISION")
    if precision is None:
        return []
    said = []
    # it gives an address only if there are to be several, and a number only to those it tells
    if "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        said.append(
            "accelerate launch was asked for several processes and has started one that knows of "
            "no other, as it does without GPUs; to have two: "
            "torchrun --standalone --nproc_per_node 2 -m scorefield ..."
        )
    off = {"no", "false", "none"}
    others = ("DYNAMO_BACKEND", "USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM")
    asked = {name: environment.get(f"ACCELERATE_{name}", "no") for name in others}
    asked = {"MIXED_PRECISION": precision} | asked
    if found := [f"{k}={v}" for k, v in asked.items() if v.lower() not in off]:
        said.append(
            f"accelerate's {', '.join(found)} has no effect: of its settings the processes alone "
            "are used; machine.autocast=on is bfloat16, machine.compile=on is torch.compile"
        )
    return said
