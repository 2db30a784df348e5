"""Everything on an accelerator, by default the pretend one, gives the CPU's results.

A sampler's step neither copies to the device nor waits for it.
"""

import pytest
import torch

from scorefield import geometric
from scorefield.samplers import SAMPLERS, final
from scorefield.samplers.integrate import predictor_corrector
from scorefield.samplers.langevin import langevin

X = torch.linspace(-2, 2, 12).reshape(6, 2)


def normal(x, sigma):
    """Return the score of N(0, I)."""
    return -x / (1 + sigma**2)


def levels(run, **options):
    """Return a sampler's run as a function of x and the number of steps."""
    return lambda x, steps: run(normal, x, geometric(2.0, 0.1, steps + 1), **options)


RUNS = {
    "langevin": lambda x, steps: langevin(normal, x, 0.5, alpha=0.01, steps=steps),
    **{name: levels(one.run) for name, one in SAMPLERS.items() if name != "annealed_langevin"},
    "annealed_langevin": levels(SAMPLERS["annealed_langevin"].run, steps=2, epsilon=1e-3),
    "predictor_corrector, batch": levels(predictor_corrector, rule="batch", corrections=2),
}


def test_what_an_accelerator_refuses_is_refused(device):
    here, there = X.clone(), X.to(device)
    assert there.device.type == torch.device(device).type
    assert (there * torch.tensor(2.0) + 1).tolist() == (2 * here + 1).tolist()
    assert there[torch.tensor([1])].tolist() == here[1:2].tolist()
    two_devices = (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here.add_(there),
        lambda: here[torch.tensor([1], device=device)],
        lambda: there @ here.T,
    )
    for call in two_devices:
        with pytest.raises(RuntimeError, match="device"):
            call()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=device, generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_float64_only_where_there_is_some(device):
    wide = (
        lambda: X.to(device).double(),
        lambda: X.double().to(device),
        lambda: torch.zeros(2, dtype=torch.float64, device=device),
        lambda: torch.tensor([0.5], dtype=torch.float64, device=device),
    )
    for call in wide:
        if device in ("mps", "pretend:1"):
            with pytest.raises(TypeError, match="float64"):
                call()
        else:
            assert call().dtype == torch.float64


def test_copies_and_reads_are_counted():
    pretend = pytest.importorskip("pretend", exc_type=ImportError)
    there = X.to("pretend")
    crossings = (
        there.cpu,
        lambda: X.to("pretend"),
        lambda: torch.tensor([1.0], device="pretend"),
        lambda: torch.where(there > 0, there, torch.tensor(0.0)),
    )
    waits = (there[0, 0].item, there.tolist, lambda: there[there > 0], lambda: bool(there.any()))
    free = (lambda: torch.arange(3, device="pretend"), there.bfloat16, lambda: there * 2)
    for calls, expected in ((crossings, (1, 0)), (waits, (0, 1)), (free, (0, 0))):
        for call in calls:
            with pretend.counting() as counts:
                call()
            assert (counts.copies.total(), counts.reads.total()) == expected

    def sample(steps):
        final(langevin(lambda x, sigma: -x * x.sum().item(), there, 1.0, alpha=0.01, steps=steps))

    # from 3 steps to 6, at the innermost line of the package
    ((place, reads),) = pretend.growth(sample).items()
    assert place.startswith("samplers/state.py:")
    assert reads == 3


@pytest.mark.parametrize("name", RUNS)
def test_a_samplers_step_makes_no_copy_and_no_read(name, device, growth):
    ends = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        ends.append(final(RUNS[name](X.to(place), 3)).cpu())
    # the pretend device computes with the kernels of the CPU
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    there = X.to(device)
    assert not growth(lambda steps: final(RUNS[name](there, steps)))
