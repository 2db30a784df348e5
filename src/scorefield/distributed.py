"""Several processes that train or sample together: a thin layer over torch.distributed.

    g = Σ_r Σ_{i ∈ rows of r} ∇ℓᵢ / N,    rows of rank r: ⌊rN/R⌋ ≤ i < ⌊(r+1)N/R⌋

`torchrun` and `accelerate launch` start R processes and describe the group in the environment.
Everything random is a function of the position in the global batch, so only sums are exchanged.
Outside of a group, each function here is a no-op or answers for a single process.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(hours=1)
"""Longest wait for rank 0, which writes files while the others wait."""

DEVICE_NEEDS = {
    "cuda": "it needs a GPU with its driver, and the build of torch for it, from pytorch.org",
    "mps": "it needs a Mac with Apple silicon, and torch's build for it",
}

Item = TypeVar("Item")


def join() -> None:
    """Join the launcher's process group, if there is one."""
    alone = "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1
    if alone or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device(torch.device("cuda")))
    # Gloo carries CPU tensors, NCCL carries gradients on a GPU.
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)
    atexit.register(_leave)


def _leave() -> None:
    """Destroy the group; a thread of it that still runs would abort the interpreter."""
    dist.destroy_process_group()
    time.sleep(0.1)  # some of its threads need a moment to stop


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return True in the process that writes files and prints."""
    return rank() == 0


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU if a GPU is asked for and there are several processes."""
    local = os.environ.get("LOCAL_RANK")
    if device.type != "cuda" or local is None or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    if int(local) >= (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes on a machine with {gpus} "
            "GPUs: start one process per GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    return torch.device("cuda", int(local))


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" takes CUDA, then Apple's GPU, then the CPU."""
    if name == "auto":
        gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = next((gpu for gpu, here in gpus.items() if here), "cpu")
    try:
        x = torch.zeros(1, device=name)
        x.item()  # fails on the device meta, which has no memory
        return x.device
    except (RuntimeError, AssertionError, ImportError) as error:
        kind = name.partition(":")[0]
        needs = DEVICE_NEEDS.get(kind, "the devices are cpu, cuda and mps")
        reason = f" ({str(error).splitlines()[0]:.200})" * (kind == "cuda")
        raise ValueError(f"device {name!r} is not available{reason}: {needs}; try auto") from error


def split_rows(n: int, rank: int, world: int) -> range:
    """Return the rows of one rank, out of n; the sizes differ by at most one."""
    return range(rank * n // world, (rank + 1) * n // world)


def own_rows(n: int) -> slice:
    """Return this process's rows, out of n."""
    rows = split_rows(n, rank(), world())
    return slice(rows.start, rows.stop)


class SharedLoss:
    """A loss of each process's rows, whose backward pass sums the gradients over all processes.

    `DistributedDataParallel` sends them in buckets while the pass continues. It sees the loss as
    one module, so that derivatives within the loss are as in one process. Every step must use the
    same parameters, unless the first step leaves out some.
    """

    def __init__(self, loss: Callable[..., Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.loss, self.parameters = loss, [p for p in parameters if p.requires_grad]
        self._parallel: DistributedDataParallel | None = None

    def backward(self, *inputs: Any, last: bool = True) -> Tensor:
        """Add the gradients of the loss to those of the parameters, and return the loss.

        The processes exchange what they have added up only in the `last` call of a step.
        """
        if world() == 1:
            value: Tensor = self.loss(*inputs)
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach()
        self._parallel = self._parallel or self._wrap(*inputs)
        with nullcontext() if last else self._parallel.no_sync():
            value = self._parallel(*inputs)
            # it divides the sum of the gradients by the number of processes
            (world() * value).backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _wrap(self, *inputs: Any) -> DistributedDataParallel:
        gradients = torch.autograd.grad(self.loss(*inputs), self.parameters, allow_unused=True)
        module = nn.Module()
        module.forward, module.parameters_of_loss = self.loss, nn.ParameterList(self.parameters)
        return DistributedDataParallel(
            module,
            gradient_as_bucket_view=True,
            find_unused_parameters=bool(all_max(any(g is None for g in gradients))),
        )


def all_sum(x: Tensor) -> Tensor:
    """Sum x over all processes in place; every process gets the same bits."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def all_max(number: int) -> int:
    """Return the largest number of any process. Blocks until all have called."""
    if world() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block in rank 0 before any other process runs it."""
    if not is_main():
        all_max(0)
    yield
    if is_main():
        all_max(0)


def broadcast(item: Item) -> Item:
    """Return rank 0's object in every process."""
    items = [item]
    if world() > 1:
        dist.broadcast_object_list(items)
    return items[0]


def check_equal(**facts: object) -> None:
    """Raise ValueError if a fact differs between processes. Blocks until all have called."""
    by_rank = all_gather(facts)
    for name in facts:
        values = [other[name] for other in by_rank]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"{name} is not the same in all processes: {', '.join(map(str, values))}; make "
                "sure that all see the same files at the same paths and start at the same time"
            )


def all_gather(item: Item) -> list[Item]:
    """Return every process's object, by rank."""
    items = [item] * world()
    if world() > 1:
        dist.all_gather_object(items, item)
    return items


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """Return this process's items, assigned round-robin."""
    return items[rank() :: world()]


def gather_shards(own: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> list[Tensor]:
    """Return all tensors in order, in every process, from the ones that `shard` assigned to each.

    `sizes` are the rows of every tensor, and `like` is one row of the result.
    """
    if world() == 1:
        return list(own)
    tensors = [torch.empty(size, *like.shape, dtype=like.dtype) for size in sizes]
    for tensor, value in zip(shard(tensors), own, strict=True):
        tensor.copy_(value)
    for number, tensor in enumerate(tensors):
        dist.broadcast(tensor, number % world())
    return [tensor.to(like.device) for tensor in tensors]


def launcher_warnings(environment: Mapping[str, str]) -> list[str]:
    """Return warnings about `accelerate launch` settings that have no effect here."""
    if "ACCELERATE_MIXED_PRECISION" not in environment:
        return []
    warnings = []
    # for several processes on a CPU, accelerate sets MASTER_ADDR but no WORLD_SIZE
    if "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        warnings.append(
            "accelerate launch was asked for several processes but started one, as it does without "
            "GPUs; to get two: torchrun --standalone --nproc_per_node 2 -m scorefield ..."
        )
    names = "MIXED_PRECISION", "DYNAMO_BACKEND", "USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM"
    values = {name: environment.get(f"ACCELERATE_{name}", "no") for name in names}
    off = {"no", "false", "none"}
    if ignored := [f"{k}={v}" for k, v in values.items() if v.lower() not in off]:
        warnings.append(
            f"accelerate's {', '.join(ignored)} has no effect: scorefield uses only its processes; "
            "set machine.autocast=on for bfloat16, machine.compile=on for torch.compile"
        )
    return warnings
