"""Choose the experiment: a preset, changed by a file, then by the data, then by settings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..values import spelling_hint
from .config import Data, Experiment, override, read
from .presets import PRESETS


def choose_experiment(
    preset: str | None = None,
    *,
    file: Path | None = None,
    source: str | None = None,
    settings: Sequence[str] = (),
) -> Experiment:
    """Return the experiment that `scorefield train` runs; without a preset, one suits the data."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"{preset!r} is not a preset: {spelling_hint(preset, PRESETS)}")
    suited = preset or ("digits" if source is None else _suited_preset(source, settings))
    experiment = PRESETS[suited]
    if file is not None:
        experiment = read(file, experiment if preset else None)
    data = experiment.data
    if source is not None and source != data.source:
        flip = data.flip and preset is not None
        data = replace(data, source=source, options=_kept_options(data, source), flip=flip)
    return override(replace(experiment, data=data), settings)


def _kept_options(data: Data, source: str) -> dict[str, Any]:
    """Return the options that also hold for another source."""
    from ..data import DATASETS, HUB_PREFIX, PUBLISHED_FILES

    reader = DATASETS.get(data.source)
    named = source in DATASETS or source.startswith(HUB_PREFIX)
    if named or reader not in (None, *PUBLISHED_FILES.values()):
        return {}
    # A folder of images may replace published ones, and is cropped and scaled like them.
    return {k: v for k, v in data.options.items() if k not in ("root", "download")}


def _suited_preset(source: str, settings: Sequence[str]) -> str:
    """Return the name of the preset for data of this kind."""
    if source == "digits":
        return source
    from ..data import DATASETS, HUB_PREFIX, PUBLISHED_FILES, load_data

    published = DATASETS.get(source) in PUBLISHED_FILES.values()
    if published or source.startswith(HUB_PREFIX) or Path(source).is_dir():
        return "photos"
    own = [setting for setting in settings if setting.startswith("data.options.")]
    data = load_data(source, **override(Experiment(), own).data.options)
    if data.table is not None:
        return "table"
    return {"images": "photos", "signals": "signals", "vectors": "vectors"}[data.kind]
