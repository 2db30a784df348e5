"""The model card of a run: what the model is, how good, its limits, and how it was trained.

It is written from the model's header, config.json and metrics.json, and has no other figures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from ..model import ScoreModel
from ..values import HUB_PREFIX, describe_classes, escape_controls
from .figure import Figure, in_text, number
from .quality import CELLS

GRID_FILE = "samples.png"


def model_card(
    name: str,
    model: ScoreModel,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    picture: str,
    license: str | None = None,
) -> str:
    """Return the text of README.md for OWNER/NAME.

    `config` and `metrics` are the contents of config.json and metrics.json, empty if there are
    none; `picture` is the caption of the grid of samples, empty if there is none.
    """
    source = config.get("data", {}).get("source")
    of = f" of {_inline(source)}" if source else ""
    image = f"![Samples]({GRID_FILE})\n\n{picture}" if picture else ""
    parts = [
        _front_matter(source, bool(picture), license),
        f"# {name.partition('/')[2]}",
        f"A model of the score ∇ₓ log q_σ(x){of}, made by scorefield {version('scorefield')}.",
        image,
        f"## Load it\n\n```sh\npip install 'scorefield[hub]'\nscorefield sample hub:{name}\n```",
        f"```python\nimport scorefield\n\nmodel = scorefield.load({HUB_PREFIX + name!r})\n"
        "x = scorefield.sample(model, 64)\n```",
        f"## Model\n\n{_describe_model(model)}",
        *describe_metrics(metrics),
        _describe_training(config),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def describe_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Return the sections that show metrics.json."""
    return [*_figures(metrics), f"## Limits\n\n{_limits(metrics)}"]


def read_figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """Return the figures in the content of metrics.json."""
    missing = dict.fromkeys(("value", "low", "high", "real"), math.nan)
    rows: Sequence[dict[str, Any]] = metrics.get("figures", ())
    return [Figure(**row | {k: x for k, x in missing.items() if row[k] is None}) for row in rows]


def _front_matter(source: str | None, pictured: bool, license: str | None) -> str:
    content: dict[str, Any] = {"library_name": "scorefield"}
    if license is not None:
        content["license"] = license
    if pictured:
        content["pipeline_tag"] = "unconditional-image-generation"
    if source and source.startswith(HUB_PREFIX) and source.count("/") == 1:
        content["datasets"] = [source.removeprefix(HUB_PREFIX)]
    content["tags"] = ["scorefield", "score-matching", "diffusion", "pytorch"]
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _describe_model(model: ScoreModel) -> str:
    arguments = getattr(model.net, "arguments", {})
    shape = tuple(model.prior.mean.shape) if model.prior is not None else model.shape
    rows = [
        ("network", type(model.net).__name__),
        ("arguments", ", ".join(f"{k}={v}" for k, v in arguments.items())),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("a sample", " × ".join(map(str, shape or ("any shape",)))),
        ("noise levels", f"σ from {model.sigma_max:.4g} to {model.sigma_min:.4g}"),
        ("classes", describe_classes(model.classes) if model.classes else "none"),
    ]
    return _table(("", ""), rows)


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a section with a table for each plan of sampling, and one for the model itself."""
    figures = [f for f in read_figures(metrics) if f.features != CELLS]
    plans = {f.plan["name"]: f.plan for f in figures if f.plan}
    if figures:
        yield f"## Figures\n\nOf the weights {figures[0].weights}; all are in metrics.json."
    heads = ("figure", "value", "95 % interval", "real data", "samples", "compared with")
    for name in (*plans, None):
        title, rows = "The model itself", list[Sequence[str]]()
        if name:
            title = f"{name}, {plans[name]['evaluations']:g} evaluations a sample"
        for f in figures:
            own = (f.plan["name"] if f.plan else None) == name
            if own and not f.name.startswith("denoising loss at"):
                against = f"{f.reference}; {f.features}".strip("; ")
                rows.append((f.name, *in_text(f), number(f.real), str(f.samples), against))
        if rows:
            yield f"### {title}\n\n{_table(heads, rows)}"


def _limits(metrics: Mapping[str, Any]) -> str:
    unknown = "Memorisation of the training data was not measured."
    notes = metrics.get("notes", [])
    if not isinstance(notes, list):
        raise TypeError(f"notes is {notes!r:.40}, not a list")
    lines = [metrics.get("verdict") or unknown, *(f"Not measured: {note}." for note in notes)]
    lines += [f"{f.name}: {f.warning}." for f in read_figures(metrics) if f.warning]
    lines.append("Nothing else about the content of the samples was checked.")
    return "\n".join(f"- {_inline(line)}" for line in dict.fromkeys(lines))


def _describe_training(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    parts = {k: config[k] for k in ("data", "levels", "training", "seed") if k in config}
    text = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True)
    again = "`scorefield train --config config.json --out RUN`"
    return f"## Training\n\nFrom config.json, by which {again} trains again:\n\n```yaml\n{text}```"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_inline, line))} |" for line in lines)


def _inline(text: object) -> str:
    """Return text as one line, which can stand in a cell."""
    return escape_controls(str(text)).replace("|", "\\|")
