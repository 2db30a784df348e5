"""The kernels as operations of torch.library: alone, in torch.compile and in torch.export."""

import pytest
import torch
from test_kernels import needs_compiler
from test_networks import compare_compiled, small_unet

from scorefield.fast.twins import swap
from scorefield.nn.refinenet import Refinement

OPS = torch.ops.scorefield
NETS = {
    "ncsn": lambda: Refinement(4, 4, 5, first=False, last=False),
    "ncsnv2": lambda: Refinement(4, 4, None, first=False, last=False),
    "unet": lambda: small_unet(channels=4, multipliers=(1,), attention=()),
}
FUSED = {"winograd_conv3x3", "norm_activation"}
BACKWARD = {"winograd_conv3x3_input_backward", "winograd_conv3x3_weight_backward"}
BACKWARD |= {"norm_activation_backward"}
pytestmark = [needs_compiler, pytest.mark.usefixtures("unchecked")]
nets = pytest.mark.parametrize("name", NETS)


def _optimize(name):
    """A network, or a block with its features and coarser ones, with the kernels; and inputs."""
    net, x = NETS[name](), torch.randn(2, 4, 8, 12)
    swap(net, winograd=True, coarse=False, onednn=True)
    level = None if name == "ncsnv2" else torch.tensor([1, 4])
    return net, (x, torch.tensor([0.3, 2.1])) if name == "unet" else (x, x[..., :4, :6], level)


def _names(graph):
    targets = [str(node.target).split(".") for node in graph.nodes]
    return {target[1] for target in targets if target[0] == "scorefield"}


@nets
def test_a_compiled_training_step_calls_the_operations_and_has_the_eager_gradients(name):
    from functorch.compile import make_boxed_func  # takes seconds, and no other test needs it
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    net, inputs = _optimize(name)
    names = []

    def record(graph_module, _):
        names.append(_names(graph_module.graph))
        return make_boxed_func(graph_module)

    compiled = torch.compile(net, fullgraph=True, backend=aot_autograd(fw_compiler=record))
    compare_compiled(net, compiled, *inputs)
    pools = {"max_pool5x5"} if name == "ncsnv2" else set()
    assert names == [FUSED | pools, BACKWARD | {f"{pool}_backward" for pool in pools}]


@nets
@torch.no_grad()
def test_an_exported_network_calls_the_operations(name):
    net, inputs = _optimize(name)
    program = torch.export.export(net, inputs)
    assert _names(program.graph) >= FUSED
    torch.testing.assert_close(program.module()(*inputs), net(*inputs), rtol=0, atol=0)


def _leaf(t):
    is_float = isinstance(t, torch.Tensor) and t.is_floating_point()
    return t.clone().requires_grad_() if is_float else t


def test_each_operation_keeps_the_contract_of_torch_library():
    x, weight, bias, dy = (torch.randn(s) for s in ((2, 8, 6, 7), (4, 8, 3, 3), 4, (2, 4, 6, 7)))
    levels, groups = torch.randn(3, 3, 8), torch.randn(1, 2, 8)
    y = OPS.max_pool5x5(x)
    checks = [
        (OPS.winograd_conv3x3_input_backward, (dy, weight, 1)),
        (OPS.max_pool5x5, (x,)),
        (OPS.max_pool5x5_backward, (y, x, y)),
        (OPS.norm_activation, (x, groups, "silu", 2, 1e-5)),
        (OPS.norm_activation, (x, None, "elu", 0, 0.0)),
    ]
    for function, affine, level in (
        ("elu", levels, torch.tensor([2, 0])),
        ("pool", levels[:1], None),
        ("silu", groups, None),
    ):
        settings = function, 2 if affine is groups else 0, 1e-5
        operands = x, weight, bias, affine, level, dy, 1, *settings, False, True
        _, stats, _ = OPS.winograd_conv3x3(*operands)
        checks += [
            (OPS.winograd_conv3x3, operands),
            (OPS.winograd_conv3x3_weight_backward, (dy, x, stats, 1, function)),
            (OPS.norm_activation_backward, (y, x, affine, level, stats, *settings)),
        ]
    for operation, inputs in checks:
        trains = "backward" not in str(operation)
        leaves = [_leaf(t) if trains else t for t in inputs]
        torch.library.opcheck(operation.default, leaves)
