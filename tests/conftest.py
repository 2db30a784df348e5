"""Check shapes and types in every call of every module of scorefield."""

import gc
import os
import sys
from contextlib import nullcontext
from functools import wraps

import jaxtyping
import typecheck
from waiting import SECONDS

gc.disable()  # until all is imported: nothing of it is garbage
typecheck.install()  # before the first import of scorefield

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("fuzz", deadline=None, max_examples=10_000, print_blob=True)
settings.load_profile("reproducible")


def pytest_addoption(parser):
    parser.addoption("--device", help="run the tests of devices on this one, such as cuda or mps")


def pytest_generate_tests(metafunc):
    """Run a test that takes a `device` on both faces of the pretend accelerator, or on a real one.

    The faces differ where code asks `_ops.wide` or `_ops.widest`. A test of other code has the mark
    `one_face`, which is the one that refuses float64. `pytest -m device` selects all of them.
    """
    own = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "device" in metafunc.fixturenames and not any("device" in names for names in own):
        real = metafunc.config.getoption("device")
        one_face = metafunc.definition.get_closest_marker("one_face")
        names = [real] if real else ["pretend:0"] * (not one_face) + ["pretend:1"]
        params = [pytest.param(name, marks=pytest.mark.device) for name in names]
        metafunc.parametrize("device", params, indirect=True)


@pytest.fixture
def device(request, monkeypatch):
    """Name of a device. The pretend one is registered when a test first needs it."""
    if request.param.startswith("pretend"):
        pytest.importorskip("pretend", reason="torch is too old", exc_type=ImportError)
    if request.param == "pretend:1":
        monkeypatch.setattr("scorefield._ops.NO_FLOAT64", {"pretend", "cpu"})
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


class HostNoise(TorchFunctionMode):
    """Draw noise on the CPU, because another device's generator has other numbers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.randn_like:
            return function(args[0].cpu()).to(args[0])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def same(device):
    """Compare what a function of a device computes on the CPU and on `device`.

    The pretend device computes with the CPU's kernels, so results are equal bit for bit, or to
    `limit` if one face computes in another type. A real one rounds differently: by 6e-8 in each of
    100 operations, which errors in x of a sampler multiply by 100.
    """

    def compare(compute, limit=0.0):
        limit = limit if device.startswith("pretend") else 6e-4
        results = []
        for place in ("cpu", device):
            torch.manual_seed(0)
            with nullcontext() if device.startswith("pretend") else HostNoise():
                leaves = torch.utils._pytree.tree_leaves(compute(place))
            results.append([x.cpu() if isinstance(x, torch.Tensor) else x for x in leaves])
        torch.testing.assert_close(*results, rtol=limit, atol=limit, equal_nan=True)

    return compare


@pytest.fixture
def growth(device):
    """`pretend.growth`, the copies and reads that more steps add; not counted on a real device."""
    if device.startswith("pretend"):
        return sys.modules["pretend"].growth
    return lambda run, *steps: None


def pytest_collection_finish():
    """Collect garbage, but not in all that is imported, which takes half a second each time.

    What is imported later is left out of all but every tenth of the full collections.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 100)
    gc.enable()


torch.set_num_threads(1)  # on which sums in float32 depend; a run sets it for its process, too

# each torch.manual_seed stores where it was called, in case CUDA is used later
on_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
seed = torch.manual_seed if on_gpu else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _seed():
    seed(0)


@pytest.fixture(scope="session", autouse=True)
def _few_levels():
    """Compute curves of losses at 3 levels, not 12."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorefield.evaluate.fit.LOSS_LEVELS", 3)
        yield


@pytest.fixture(scope="session", autouse=True)
def _trace_once():
    """Trace a network of one configuration once: on the device meta some take half a second."""
    from scorefield.runs import build

    trace, traced = build.trace_model, {}

    def trace_once(experiment, shape):
        network, limit = experiment.network, build.MAX_PARAMETERS
        if ":" in network["kind"]:  # a class of a test, not always the same by this name
            return trace(experiment, shape)
        key = repr((network, experiment.levels, shape, torch.get_default_dtype(), limit))
        if key not in traced:
            traced[key] = trace(experiment, shape)
        return traced[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "trace_model", trace_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _train_classifier_once():
    """Train the classifier of the digits, which takes a second, once."""
    from scorefield.evaluate import features

    make, of_digits = features.classifier_features, {}

    @wraps(make)
    def make_once(data):
        if data.name != "digits":
            return make(data)
        sizes = len(data.train), len(data.test)
        return of_digits.get(sizes) or of_digits.setdefault(sizes, make(data))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "classifier_features", make_once)
        yield


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Let the first of the workers that need a folder fill it, while the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name, fill):
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def points(tmp_path_factory):
    """A file of vectors."""
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 3)).astype("float32"))
    return path


@pytest.fixture
def error_of(capsys):
    """Run a command that must fail with exit code 2, and return its error message of one line."""
    from scorefield.cli import main

    def run(*args):
        capsys.readouterr()  # of earlier commands
        assert main([*map(str, args)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("scorefield: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def unchecked():
    """Switch the checks off: a compiler cannot trace them, and they precede some error messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face Hub on loopback that this process is logged in to, with an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    import hub_server

    with hub_server.serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
            monkeypatch.setattr(constants, name, SECONDS)  # not 10, on a busy machine
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield server
