from pathlib import Path

from scorefield.paper import EXPERIMENTS, Finding, Setting, run_experiments

setting = Setting(Path("runs/paper"), scale="small", seed=0)

# %%
print(list(EXPERIMENTS))
finding: Finding = EXPERIMENTS["fig3"](setting)
print(finding)
# %%
quick = Setting(Path("runs/paper"), most=3)  # at most 3 steps, to see that it runs
passed = run_experiments(["fig3"], quick)
