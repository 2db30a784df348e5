import torch

from scorefield import (
    EDM,
    MLP,
    NCSN,
    VE,
    VP,
    FlowMatching,
    NCSNv2,
    Precondition,
    ScoreModel,
    SubVP,
    VEDiscrete,
    VPDiscrete,
    ddpm_sigmas,
    geometric,
)

x = torch.randn(3, 2)
net = MLP(2, width=16, blocks=1)

# %%
for precondition in (EDM(1.0), VE(), FlowMatching()):
    model = ScoreModel(net, precondition)  # the same network, with another meaning
    print(precondition.predicts, precondition.clock, model(x, 1.0).shape)
# %%
for precondition in (VP(), VP(predicts="v"), SubVP()):
    model = ScoreModel(
        MLP(2, width=16, blocks=1, embedding="sinusoidal"), precondition
    )
    print(
        f"σ from {model.sigma_max:.0f} to {model.sigma_min:.2g}",
        model(x, 1.0).shape,
    )
# %%
ladder = geometric(10.0, 0.01, 10)
for precondition in (
    NCSN(ladder),
    VEDiscrete(ladder),
    VPDiscrete(ddpm_sigmas()),
):
    print(
        precondition.clock,
        len(precondition.levels),
        ScoreModel(net, precondition)(x, 1.0).shape,
    )
# %%
blind = ScoreModel(net, NCSNv2())  # the network gets x alone
print(blind.precondition.clock, blind(x, 1.0).shape)
# %%
own = Precondition("noise", "log", sigma_max=10.0, sigma_min=0.01)
print(ScoreModel(net, own)(x, 1.0).shape)
