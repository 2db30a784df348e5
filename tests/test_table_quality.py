"""Quality of sampled tables, compared with real rows; a study that takes minutes.

Samples are converted to rows of text and back to standardised vectors of all columns. Held-out rows
choose nothing: the model is the last state.
"""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scorefield import load, sample
from scorefield.data import Table, all_samples
from scorefield.metrics import neighbour_ratio, sliced_wasserstein
from scorefield.noise import seeded
from scorefield.runs import start
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS

SAMPLES = 5000
"""The standard error of their correlations is about 0.014."""


def _cells(table, x):
    """Numbers of all columns but the last, and the texts of the last."""
    *columns, last = zip(*table.decode(x), strict=True)
    return np.array(columns, dtype=float).T, last


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["wine", "breast-cancer"])
def test_sampled_rows_are_close_to_real_ones(name, seed, tmp_path):
    """Three measures of the samples, relative to those of the training rows.

    ratio      SW₂(samples, held-out)/SW₂(training, held-out), as many samples as training rows, in
               mean over as many sets of them as 5,000 samples make
    gap        the largest |corr(5,000 samples) − corr(training rows)| of two columns
    loss       the accuracy on held-out rows of a classifier of the last column, trained on the
               training rows, less the mean of those trained on each set of samples
    """
    run = tmp_path / "run"
    experiment = override(PRESETS["table"], [f"data.source={name}", f"seed={seed}"])
    training = start(experiment, run)
    list(training)
    table = Table.read(run)
    train, test = all_samples(training.parts.data.train), all_samples(training.parts.data.test)
    samples = sample(load(run), SAMPLES, steps=32, seed=seed, batch=SAMPLES)
    numbers, texts = _cells(table, samples)
    positions = [table.columns[-1].categories.index(text) for text in texts]
    rows = table.standardise(np.column_stack([numbers, positions]))
    sets = [rows[i : i + len(train)] for i in range(0, SAMPLES - len(train) + 1, len(train))]

    def distance(x):
        return sliced_wasserstein(x, test, noise=seeded(0))  # the same directions

    ratio = np.mean([distance(x) for x in sets]) / distance(train)
    gap = (rows.T.corrcoef() - train.T.corrcoef()).abs().max().item()
    near = np.mean([neighbour_ratio(x[: len(test)], train, test) for x in sets])
    print(f"\n{name}, seed {seed}: {len(train)} rows, {len(test)} held out; ", end="")
    print(f"ratio {ratio:.3f}, gap {gap:.3f}, nearest training row {near:.2f} × of held-out")
    losses = {}
    for classifier in (LogisticRegression(max_iter=2000), RandomForestClassifier(random_state=0)):
        pipe = make_pipeline(StandardScaler(), classifier)
        cells, held_out = (_cells(table, x) for x in (train, *sets[:10])), _cells(table, test)
        real, *sampled = (pipe.fit(*part).score(*held_out) for part in cells)
        losses[type(classifier).__name__] = real - np.mean(sampled)
    print(f"  accuracy lost: {losses}")
    assert ratio <= 1.3  # 1 for training rows
    assert gap <= 0.1  # seven standard errors
    assert max(losses.values()) <= 0.05  # less than two of the 36 rows of wine held out
