"""`scorefield demo`: digits, from training to a report, in minutes."""

from __future__ import annotations

from pathlib import Path

from . import options


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: options.Seed = 0,
    steps: int | None = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Learn digits, sample them with five methods, evaluate the samples, and write a report.

    It takes two to three minutes on two cores.

    Args:
        out: directory for all results, report.html among them.
        steps: number of training steps; fewer for a quick look.
    """
    options.check(steps=steps, seed=seed)
    options.check_directory(out)
    if out.exists() and any(out.iterdir()):
        if not (out / "config.json").exists():
            raise ValueError(f"--out {out}: it holds files that are not a run, name another")
        if not overwrite:
            raise ValueError(f"--out {out}: holds a run; add --overwrite, or name another --out")
    from .. import demo

    if overwrite:
        demo.clear(out)
    demo.run(out, seed=seed, steps=steps)
