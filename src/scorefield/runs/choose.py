"""Choose the experiment: a preset, changed by a file, then by the data, then by settings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path

from ..values import spelling_hint
from .config import FINGERPRINTS_FILE, Data, Experiment, override, read
from .presets import CONSISTENCY, CONSISTENCY_RATE, PRESETS


def choose_experiment(
    preset: str | None = None,
    *,
    file: Path | None = None,
    source: str | None = None,
    settings: Sequence[str] = (),
) -> Experiment:
    """Return the experiment that `scorefield train` runs; without a preset, one suits the data.

    Without a preset, a file and a source, the data are those of the run that training starts from.
    With a budget, the network for images is chosen later, unless it is set here; latents and
    volumes keep the preset's.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"{preset!r} is not a preset: {spelling_hint(preset, PRESETS)}")
    data = None if source is None else Data(source)
    if preset is None and file is None and source is None:
        data = _inherited_data(settings)
    suited = preset or ("digits" if data is None else _suited_preset(data, settings))
    default = PRESETS[suited] if preset or file is None else Experiment()
    if data is not None and source is None:
        default = replace(default, data=data)

    def change(experiment: Experiment) -> Experiment:
        if file is not None:
            experiment = _change(experiment, partial(read, file))
        if source is not None and source != experiment.data.source:
            flip = experiment.data.flip and preset is not None
            data = replace(change_source(experiment.data, source), flip=flip)
            experiment = replace(experiment, data=data)
        return _change(experiment, lambda experiment: override(experiment, settings))

    experiment = change(default)
    if experiment.training.objective == "consistency":
        rate = f"training.rate={CONSISTENCY_RATE * default.training.rate:.3g}"
        experiment = change(override(default, [*CONSISTENCY, rate]))
    own = file is not None or any(s.startswith(("network", "start=")) for s in settings)
    budgeted = experiment.training.budget is not None and suited == "photos" and not own
    if budgeted and _has_images(experiment.data):
        experiment = replace(experiment, network={"kind": "auto"})
    return experiment


def _change(experiment: Experiment, change: Callable[[Experiment], Experiment]) -> Experiment:
    """Apply a change, and before it drop the options that the new source does not take."""
    data = change_source(experiment.data, change(experiment).data.source)
    return change(replace(experiment, data=data))


def change_source(data: Data, source: str) -> Data:
    """Replace the source, and keep the options that hold for the new one as well."""
    from ..data import DATASETS, PUBLISHED_FILES, find_loader

    if source == data.source:
        return data
    before = DATASETS.get(data.source)
    if source in DATASETS or before not in (None, *PUBLISHED_FILES.values()):
        return replace(data, source=source, options={}, condition=())
    # A folder of images may replace published ones, and is cropped and scaled like them.
    takes = signature(find_loader(source)).parameters.keys() - {"root", "download"}
    options = {name: value for name, value in data.options.items() if name in takes}
    condition = data.condition if "condition" in takes else ()
    return replace(data, source=source, options=options, condition=condition)


def _inherited_data(settings: Sequence[str]) -> Data | None:
    """Return the data of the run that the settings start from, if it is a run that names them."""
    own = [text for text in settings if text.startswith(("start=", "training.objective="))]
    experiment = override(Experiment(), own)
    if experiment.start is None:
        return None
    from ..checkpoint import run_directory
    from ..convert import find_commit
    from ..data import IN_MEMORY

    start = Path(experiment.start)
    path = run_directory(start) / "config.json"  # a pushed or converted model may have one too
    own_run = path.exists() and path.with_name(FINGERPRINTS_FILE).exists()
    if own_run and not find_commit(path)[1]:  # a model of the Hub chooses no data
        data = read(path).data
        if data.source != IN_MEMORY:
            return data
    named = any(text.startswith("data.source=") for text in settings)
    if experiment.training.objective == "consistency" and start.exists() and not named:
        raise ValueError(
            f"--from {start}: no run next to it names the data to tune it on: name them by --data"
        )
    return None


def _suited_preset(data: Data, settings: Sequence[str]) -> str:
    """Return the name of the preset for data of this kind."""
    own = [text for text in settings if text.startswith(("data.options.", "data.condition="))]
    data = override(Experiment(data=data), own).data
    if data.source == "digits":
        return data.source
    from ..data import load_data

    if _is_collection(data.source):
        return "photos"
    loaded = load_data(data.source, **data.arguments)
    if loaded.table is not None:
        return "posterior" if "parameters" in data.options else "table"
    return {"signals": "signals", "vectors": "vectors"}.get(loaded.kind, "photos")


def _is_collection(source: str) -> bool:
    """Return True for images that are published, on the Hub, or in a folder."""
    from ..data import DATASETS, HUB_PREFIX, PUBLISHED_FILES

    published = DATASETS.get(source) in PUBLISHED_FILES.values()
    return published or source.startswith(HUB_PREFIX) or Path(source).is_dir()


def _has_images(data: Data) -> bool:
    """Return True if the data are images, not latents or volumes; a file is read for that."""
    from ..data import load_data

    known_images = data.source == PRESETS["photos"].data.source or _is_collection(data.source)
    return known_images or load_data(data.source, **data.arguments).kind == "images"
