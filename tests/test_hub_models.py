"""Models on a Hub: pushed, and loaded by name. The Hub is on loopback; see hub_server.py."""

import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hub_server import TOKEN, Repository
from PIL import Image

import scorefield
from scorefield.checkpoint import load_with_notes, read_tensors
from scorefield.cli import main
from scorefield.convert import fetch_model, parse_hub_name
from scorefield.evaluate import push
from scorefield.evaluate.figure import Figure
from scorefield.runs import finish
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS

pytest.importorskip("huggingface_hub")
NAME = "me/digits"

pytestmark = pytest.mark.filterwarnings(  # the client's own
    "ignore:Use 'content=:DeprecationWarning"
)


@pytest.fixture(scope="module")
def run(make_once):
    """A tiny model of the digits."""
    changes = ["training.steps=2", "training.warmup=1", "network.width=8", "network.blocks=1"]
    tiny = override(PRESETS["digits"], [*changes, "sampling.steps=4"])
    return make_once("pushed", lambda folder: finish(tiny, folder / "digits")) / "digits"


@pytest.fixture
def pushed(hub, run):
    """A Hub that has the model of the run, as `push` writes it."""
    push(run, NAME)
    hub.requests.clear()
    return hub


def same(model, run):
    x, truth = torch.rand(2, 1, 8, 8), scorefield.load(run)
    with torch.no_grad():
        return torch.equal(model(x, 0.5), truth(x, 0.5))


def test_a_model_samples_the_same_bits_by_name(hub, run, tmp_path, monkeypatch, capfd):
    assert main(["push", str(run), NAME, "--message", "First"]) == 0
    commit = hub.repositories[NAME].head
    printed = capfd.readouterr()
    assert f"/{NAME}/commit/{commit}" in printed.out
    assert "sample hub:me/digits" in printed.out
    command = ["sample", "-n", "3", "--device", "cpu", "--out"]
    assert main([*command, str(tmp_path / "here.npy"), str(run)]) == 0
    monkeypatch.chdir(tmp_path)
    assert main([*command, "there.npy", f"hub:{NAME}"]) == 0
    here, there = (np.load(tmp_path / f"{name}.npy") for name in ("here", "there"))
    assert np.array_equal(here, there)
    about = json.loads((tmp_path / "there.npy.json").read_text())
    assert about["model"] == f"hub:{NAME}@{commit}"
    content = (run / "model.safetensors").read_bytes()
    assert about["trained"]["sha256"] == {"model.safetensors": sha256(content).hexdigest()}
    # the login goes to the Hub's own host, and is in no file and no line
    hosts = {h["host"] for _, _, h in hub.requests if "authorization" in h}
    assert hosts == {hub.endpoint.removeprefix("http://")}
    files = [*hub.repositories[NAME].commits[-1].values(), *map(str.encode, printed)]
    assert not any(TOKEN.encode() in content for content in files)


def test_the_python_of_the_page_runs(pushed, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/digits")
    page = (Path(__file__).parents[1] / "docs/hub.md").read_text().replace("OWNER/NAME", NAME)
    names, blocks = {}, re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["x"].shape == (64, 1, 8, 8)
    assert Path("card/README.md").exists()
    assert Path("another-card/README.md").exists()


def test_only_the_files_of_a_run_are_downloaded_and_only_once(pushed, run, capsys):
    other = {"optimiser.safetensors": b"1", "pytorch_model.bin": b"2", "modeling.py": b"raise"}
    pushed.repositories[NAME].commit(other)
    assert same(scorefield.load(f"hub:{NAME}"), run)
    needed = {"model.safetensors", "model.json", "config.json", "data.json"}
    assert pushed.downloads() == needed
    pushed.requests.clear()
    commit = pushed.repositories[NAME].head
    assert main(["train", "digits", "--from", f"hub:{NAME}", "--show"]) == 0
    assert json.loads(capsys.readouterr().out)["start"].endswith(f"/snapshots/{commit}")
    assert same(scorefield.load(f"hub:{NAME}@{commit}"), run)
    assert not pushed.downloads()


def test_a_revision_is_loaded_and_recorded(pushed, run):
    first = pushed.repositories[NAME].head
    pushed.repositories[NAME].commit({"model.safetensors": b"of a later format"})
    model, notes = load_with_notes(f"hub:{NAME}@{first}")
    assert same(model, run)
    assert notes["hub"] == f"hub:{NAME}@{first}"
    with pytest.raises(ValueError, match="not a safetensors file"):
        scorefield.load(f"hub:{NAME}")


def test_a_broken_download_is_resumed(pushed, run, monkeypatch):
    pushed.cuts = [1000, 500]
    # the client resumes after whole chunks, of 10 MiB
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    assert same(scorefield.load(f"hub:{NAME}"), run)
    ranges = [h.get("range") for _, path, h in pushed.requests if path.startswith("/objects/")]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_download_that_breaks_for_good_is_refused_and_leaves_nothing(pushed, run):
    pushed.cuts = [0] * 20
    with pytest.raises(OSError, match=f"hub:{NAME} cannot be downloaded.*try again"):
        scorefield.load(f"hub:{NAME}")
    pushed.cuts = []
    assert same(scorefield.load(f"hub:{NAME}"), run)


def test_a_file_with_a_wrong_checksum_is_refused_and_removed(pushed, run):
    pushed.repositories[NAME].wrong = b"\0" * 9
    with pytest.raises(OSError, match=r"model\.safetensors is damaged.*but the Hub lists.*again"):
        scorefield.load(f"hub:{NAME}")
    pushed.repositories[NAME].wrong = b""
    assert same(scorefield.load(f"hub:{NAME}"), run)


def test_without_a_network_the_cache_is_read(pushed, run, monkeypatch):
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(OSError, match=r"cannot be downloaded: .*check the network, and try"):
            scorefield.load(f"hub:{NAME}")
    assert same(scorefield.load(f"hub:{NAME}"), run)
    commit = pushed.repositories[NAME].head
    used = f"hub:{NAME} cannot be downloaded: .*check the network.*; commit {commit} in the cache"
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.warns(match=used):
            assert same(scorefield.load(f"hub:{NAME}"), run)
    for status, reason in {500: "answers with status 500", 429: "status 429"}.items():
        pushed.faults = {f"/api/models/{NAME}": status}
        with pytest.warns(match=f"{reason}.*; commit {commit} in the cache is used"):
            assert same(scorefield.load(f"hub:{NAME}"), run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(scorefield.load(f"hub:{NAME}"), run)
    with pytest.raises(OSError, match="not in the cache: unset HF_HUB_OFFLINE"):
        scorefield.load("hub:me/other")


def test_an_interrupted_download_is_not_taken_as_complete(pushed, monkeypatch):
    pushed.faults = {"/config.json": 500}
    with pytest.raises(OSError, match=f"hub:{NAME} cannot be downloaded: .* status 500: try"):
        scorefield.load(f"hub:{NAME}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="not in the cache: unset HF_HUB_OFFLINE"):
        scorefield.load(f"hub:{NAME}")


def test_an_interrupted_update_leaves_the_older_commit_for_use_without_a_network(
    pushed, run, monkeypatch
):
    scorefield.load(f"hub:{NAME}")
    older = pushed.repositories[NAME].head
    pushed.repositories[NAME].commit({"model.json": b"{}"})
    newest = pushed.repositories[NAME].head
    pushed.faults = {"/config.json": 500}
    with pytest.raises(OSError, match="status 500"):
        scorefield.load(f"hub:{NAME}")
    used = f"newest commit of hub:{NAME} was interrupted; commit {older} in the cache is used"
    pushed.faults = {f"/api/models/{NAME}": 500}
    with pytest.warns(match=used):
        assert same(scorefield.load(f"hub:{NAME}"), run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.warns(match=used):
        assert same(scorefield.load(f"hub:{NAME}"), run)
    for revision in ("main", newest):  # which older commits are not
        with pytest.raises(OSError, match="not in the cache"):
            scorefield.load(f"hub:{NAME}@{revision}")


def test_a_cached_model_with_a_damaged_file_is_not_taken_as_complete(pushed, monkeypatch):
    folder = fetch_model(f"hub:{NAME}")
    (folder / "config.json").resolve().write_bytes(b"{}")
    with pytest.raises(OSError, match=r"config\.json is damaged"):
        scorefield.load(f"hub:{NAME}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="not in the cache"):
        scorefield.load(f"hub:{NAME}")


@pytest.mark.parametrize(
    "end",
    [
        *("/a/../../../../secret.pkl", "/..", "/.", "//etc/passwd", "/a\\..\\x", "/a\nb"),
        *("@..", "@.", "@refs/x/..", "@main\n", "@a\\b", "@a\x1b[2J/x"),
    ],
)
def test_a_name_that_leaves_the_cached_commit_is_refused(end):
    with pytest.raises(ValueError, match="names no model of the Hub"):
        parse_hub_name(f"hub:{NAME}{end}")
    assert parse_hub_name(f"hub:{NAME}@refs/pr/1/a..b/c.pkl").file == "a..b/c.pkl"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me", "names no model of the Hub: its owner is missing: give hub:OWNER/NAME"),
        ("../digits", "names no model of the Hub"),
        ("me/nothing", "does not exist, or is private: .*hf auth login"),
        ("me/private", "does not exist, or is private: .*hf auth login"),
        ("me/gated", "its owner grants access: ask for it on the model's page"),
        ("me/llm", "neither a model of scorefield nor a UNet2DModel .* name a checkpoint in it"),
        ("me/llm@v2", "no such revision: name a branch, a tag or a commit"),
        ("me/llm/modle.safetensors", "a file that is not there: did you mean model.safetensors"),
        ("me/llm/model.safetensors", "of another program"),
    ],
)
def test_a_name_that_cannot_be_loaded_is_refused(
    hub, name, message, monkeypatch, error_of, tmp_path
):
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    llm = Repository([{"config.json": b"{}", "model.safetensors": b"\2\0\0\0\0\0\0\0{}"}])
    gated, private = Repository(gated=True), Repository(private=True)
    hub.repositories |= {"me/llm": llm, "me/gated": gated, "me/private": private}
    assert re.search(message, error_of("sample", f"hub:{name}", "--out", tmp_path / "x.npy"))
    assert hub.downloads() == ({"model.safetensors"} if "another" in message else set())


def test_an_official_checkpoint_is_loaded_and_converted_by_name(hub, tmp_path):
    folder = Path(__file__).parent / "golden"
    path, edm = folder / "ncsn_1x28x28/checkpoint.pth", folder / "edm_ddpmpp_16/checkpoint.pkl"
    files = {"a/ncsn.pth": path.read_bytes(), "edm.pkl": edm.read_bytes()}
    hub.repositories["ermon/ncsn"] = Repository([files])
    name, x = "hub:ermon/ncsn@main/a/ncsn.pth", torch.rand(1, 1, 28, 28)
    options = ["--set", "image_size=28", "--set", "sigma_max=3"]
    assert main(["convert", name, str(tmp_path / "ncsn"), *options]) == 0
    assert hub.downloads() == {"a/ncsn.pth"}
    notes = read_tensors(tmp_path / "ncsn").about
    commit = hub.repositories["ermon/ncsn"].head
    assert notes["hub"] == f"hub:ermon/ncsn@{commit}/a/ncsn.pth"
    assert notes["sha256"] == {"a/ncsn.pth": sha256(path.read_bytes()).hexdigest()}
    with torch.no_grad():
        assert torch.equal(scorefield.load(name)(x, 0.1), scorefield.from_official(path)(x, 0.1))
        model, x = scorefield.load("hub:ermon/ncsn/edm.pkl"), torch.rand(1, 3, 16, 16)
        assert torch.equal(model(x, 0.1), scorefield.from_official(edm)(x, 0.1))


def test_the_data_of_a_downloaded_configuration_are_not_loaded_unless_named(
    pushed, run, tmp_path, error_of
):
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "hub:other/data"
    pushed.repositories[NAME].commit({"config.json": json.dumps(config).encode()})
    commit, out = pushed.repositories[NAME].head, str(tmp_path / "out")
    for command, *own in (["evaluate"], ["score", "digits"], ["restore"]):
        error = error_of(command, f"hub:{NAME}", *own, "--out", out + ".csv" * bool(own))
        assert f"hub:{NAME}@{commit} names the data 'hub:other/data'" in error
        assert "add --data" in error
    assert not any("other/data" in path for _, path, _ in pushed.requests)
    config["data"] |= {"source": "digits", "options": {"held_out": str(tmp_path / "private")}}
    pushed.repositories[NAME].commit({"config.json": json.dumps(config).encode()})
    options = ["--data", "digits", "--count", "1", "-n", "1", "--method", "replace"]
    assert main(["restore", f"hub:{NAME}", *options, "--out", out]) == 0


def test_a_dry_run_writes_the_files_without_a_library_or_a_login(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    out = tmp_path / "card"
    evaluated = shutil.copytree(run, tmp_path / "run")
    figure = Figure("Fréchet distance", 1.5, 1.25, 1.75, "jackknife", 40, "few | samples", "pixels")
    plan = {"name": "heun", "evaluations": 7}
    figures = [asdict(replace(figure, weights="averaged, step 2", plan=plan))]
    metrics = {"verdict": "Memorised in part", "notes": ["bits"], "figures": figures}
    (evaluated / "metrics.json").write_text(json.dumps(metrics).replace("NaN", "null"))
    assert main(["push", str(evaluated), NAME, "--dry-run", str(out), "--license", "mit"]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("model.safetensors", "model.json", "config.json", "data.json", "metrics.json"),
        *("samples.png", "README.md"),
    }
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["license"]) == ("scorefield", "mit")
    parameters = sum(p.numel() for p in scorefield.load(out).parameters())
    for text in (
        "| Fréchet distance | 1.5 | 1.25 – 1.75 |",
        "### heun, 7 evaluations a sample",
        "- Memorised in part",
        "- Not measured: bits.",
        "- Fréchet distance: few \\| samples.",
        f"| parameters | {parameters:,} |",
        "scorefield sample hub:me/digits",
        "scorefield.load('hub:me/digits')",
        "source: digits",
    ):
        assert text in card
    (evaluated / "metrics.json").write_text(json.dumps(metrics).replace("step 2", "step 1"))
    with pytest.raises(
        ValueError, match=r"other weights \(averaged, step 1\).*of step 2: evaluate"
    ):
        push(evaluated, NAME, dry_run=tmp_path / "again")
    with pytest.raises(ValueError, match="not an empty folder"):
        push(evaluated, NAME, dry_run=out)
    with pytest.raises(
        ImportError, match=r"needs huggingface_hub: pip install 'scorefield\[hub\]'"
    ):
        push(evaluated, NAME)
    with pytest.raises(
        ImportError, match=r"needs huggingface_hub: pip install 'scorefield\[hub\]'"
    ):
        scorefield.load(f"hub:{NAME}")


def test_a_model_in_memory_is_pushed_and_loaded(hub, run, tmp_path):
    model = scorefield.load(run)
    address = model.push_to_hub(NAME, private=True, license="mit")
    assert address.endswith(f"/{NAME}/commit/{hub.repositories[NAME].head}")
    assert hub.repositories[NAME].private
    assert same(scorefield.load(f"hub:{NAME}"), run)
    files = hub.repositories[NAME].commits[-1]
    assert files.keys() == {"model.safetensors", "model.json", "samples.png", "README.md"}
    assert b"Memorisation of the training data was not measured." in files["README.md"]
    assert b"license: mit" in files["README.md"]
    hub.requests.clear()
    folder = model.push_to_hub(NAME, dry_run=tmp_path / "card")
    assert {path.name for path in Path(folder).iterdir()} == files.keys()
    assert not hub.requests


DAMAGED = {
    "figures": ("[", "is damaged"),
    "a figure without a value": ({"figures": [{"name": "x"}]}, r"is damaged \(KeyError: 'value'"),
    "a number of figures": ({"figures": 5}, "is damaged .*int"),
    "an unknown field": ({"figures": [{"value": 1, "low": 1, "high": 1, "real": 1}]}, "is damaged"),
    "a plan without a name": ({}, r"is damaged \(KeyError: 'name'"),
    "notes": ({"notes": 3}, "is damaged .*notes is 3, not a list"),
    "a text for notes": ({"notes": "bits"}, "is damaged .*notes is 'bits', not a list"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_metrics_file_is_refused_by_name(run, tmp_path, name):
    content, message = DAMAGED[name]
    copy, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "card"
    figure = Figure("a", 1.0, 1.0, 1.0, "", 4, weights="as given", plan={"name": "heun"}, real=1.0)
    if name == "a plan without a name":
        content = {"figures": [asdict(replace(figure, plan={"sampler": "heun"}))]}
    text = content if isinstance(content, str) else json.dumps(content)
    (copy / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=rf"metrics\.json {message}"):
        push(copy, NAME, dry_run=out)
    assert not out.exists()


@pytest.mark.parametrize("content", [b"no picture", None])
def test_a_picture_that_the_run_did_not_write_is_left_out(run, tmp_path, content):
    copy, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "card"
    (copy / "samples").mkdir(exist_ok=True)
    foreign = copy / "samples/99999999.png"
    foreign.write_bytes(content or b"")
    if content is None:
        Image.new("L", (2, 2)).save(foreign)
    Image.new("L", (2, 2)).save(copy / "samples/7 copy.png")
    with pytest.warns(match=r"99999999\.png is not a grid that the run wrote: it is left out"):
        push(copy, NAME, dry_run=out)
    assert "not selected." in (out / "README.md").read_text()
    assert (out / "samples.png").read_bytes() != foreign.read_bytes()


def test_a_private_push_is_never_public(hub, run):
    push(run, NAME, private=True)
    assert hub.repositories[NAME].private
    hub.repositories["me/open"] = Repository()
    with pytest.raises(ValueError, match="me/open exists and is public"):
        push(run, "me/open", private=True)
    assert len(hub.repositories["me/open"].commits) == 1


def test_a_push_that_cannot_succeed_is_refused(hub, run, tmp_path, monkeypatch):
    for name, message in {
        "digits": r"'digits' has no owner: give OWNER/digits, where .*`hf auth whoami`",
        "hub:digits": "has no owner: give OWNER/digits",
        "": "give hub:OWNER/NAME",
        "me/digits@main": "give OWNER/NAME, without a revision",
        "me/digits/model.safetensors": "give OWNER/NAME, without a revision",
    }.items():
        with pytest.raises(ValueError, match=message):
            push(run, name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="name a run that has ended"):
        push(tmp_path / "empty", NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    with pytest.raises(OSError, match="me/digits cannot be uploaded: the Hub does not accept the"):
        push(run, NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.requests.clear()
    with pytest.raises(ValueError, match="needs a login: log in by `hf auth login`"):
        push(run, NAME)
    assert not hub.requests
