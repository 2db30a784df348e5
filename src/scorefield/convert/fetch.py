"""Models of the Hugging Face Hub by name, in its cache on this machine.

    hub:OWNER/NAME[@REVISION][/FILE]

Only the files that a model needs are downloaded: those of a run that `push` wrote, of a
`UNet2DModel` with its scheduler, or the one FILE. Each is compared with the checksum that the Hub
lists, and nothing in it is run.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ..disk import open_regular, read_text
from ..values import HUB_PREFIX, import_extra, spelling_hint
from .hub import find_folders

HUB_NAME = re.compile(
    rf"{HUB_PREFIX}(?P<repository>[^\W_][\w.-]*/[^\W_][\w.-]*)"
    r"(?:@(?P<revision>refs/\w+/[^/]+|[^/]+))?(?:/(?P<file>.+))?",
    re.ASCII,
)
RUN_FILES = (
    *("model.json", "config.json", "data.json", "table.json", "latents.json", "guide.safetensors"),
)
"""Files of a run that travel with its model.safetensors; `save` writes the first one too."""
LAYOUT_FILES = re.compile(
    r"((unet|scheduler|unet/scheduler)/)?(model_index|(scheduler_)?config)\.json"
)
"""Files that describe the layout of a model of diffusers."""
SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)", re.ASCII)
"""Folder of a repository in the Hub's cache."""
WEIGHT_FILES = re.compile(
    r"(unet/)?diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors(\.index\.json)?", re.ASCII
)
"""Files of the weights of diffusers; others hold a lower precision, or are pickles."""
LAST_FILE = re.compile(
    r"model\.json|(unet/)?diffusion_pytorch_model\.safetensors(\.index\.json)?", re.ASCII
)
"""The file of a model that is downloaded last: a commit in the cache that has it is complete."""
CHUNK = 2**20
"""Bytes that are read at a time for a checksum."""
LOG_IN = "log in by `hf auth login`"
FIXES: dict[object, str] = {
    "GatedRepoError": f"its owner grants access: ask for it on the model's page, then {LOG_IN}",
    "RevisionNotFoundError": "it has no such revision: name a branch, a tag or a commit",
    "RepositoryNotFoundError": f"it does not exist, or is private: correct the name, or {LOG_IN}",
    "OfflineModeIsEnabled": "it is not in the cache: unset HF_HUB_OFFLINE to download it",
    401: f"the Hub does not accept the login: {LOG_IN}",
    403: f"the login does not permit this: with a token that does, {LOG_IN}",
    429: "the Hub limits the number of requests (status 429): wait, and try again",
}
"""Causes and fixes, by the class of the client's error or the status of the answer."""


class HubName(NamedTuple):
    """Parts of a name on the Hub."""

    repository: str  # OWNER/NAME
    revision: str | None = None
    file: str | None = None


def parse_hub_name(name: str) -> HubName:
    """Return the parts of hub:OWNER/NAME[@REVISION][/FILE]."""
    match = HUB_NAME.fullmatch(name)
    if match and not re.search(r"--|\.\.", match["repository"]):
        parts = "/".join(filter(None, match.groups())).split("/")  # of paths in the cache
        if {"", ".", ".."}.isdisjoint(parts) and not re.search(r"[\\\x00-\x1f\x7f]", name):
            return HubName(**match.groupdict())
    lacks_owner = "its owner is missing: " * ("/" not in name)
    raise ValueError(
        f"{name!r:.200} names no model of the Hub: {lacks_owner}give hub:OWNER/NAME, with "
        "@REVISION behind it for another than the newest, and /FILE for a checkpoint in it"
    )


def fetch_model(name: str | Path) -> Path:
    """Return the file or folder of a model, which is downloaded if its name begins with hub:.

    If the Hub cannot be reached, return what was downloaded before, with a warning; if the download
    of the newest commit was interrupted, an older one.
    """
    text = Path(name).as_posix()
    if not text.startswith(HUB_PREFIX):
        return Path(name)
    source, hub = parse_hub_name(text), open_hub(text)
    try:
        info = hub.model_info(source.repository, revision=source.revision, files_metadata=True)
    except Exception as error:
        return _find_complete(text, source, error)
    checksums = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or ()}

    def download(files: Iterable[str]) -> Path:
        folder = Path()
        for file in files:
            try:
                # by the revision's name, under which the cache then finds it without a network
                place = hub.hf_hub_download(source.repository, file, revision=source.revision)
            except Exception as error:
                raise hub_error(text, error) from error
            folder = Path(place).parents[file.count("/")]
            if folder.name != info.sha:
                raise OSError(f"{text} was changed during the download: try again")
            _check(f"{text}: {file}", folder, file, checksums[file])
        return folder

    if source.file is not None:
        if source.file not in checksums:
            hint = spelling_hint(source.file, checksums)
            raise FileNotFoundError(f"{text} names a file that is not there: {hint}")
        return download([source.file]) / source.file
    if {"model.safetensors", "model.json"} <= checksums.keys():
        files = ("model.safetensors", *reversed(RUN_FILES))
        return download(file for file in files if file in checksums)
    if not any(map(WEIGHT_FILES.fullmatch, checksums)):
        raise FileNotFoundError(
            f"{text} has neither a model of scorefield nor a UNet2DModel in safetensors; name a "
            f"checkpoint in it, as {text}/FILE: {spelling_hint('', checksums)}"
        )
    folder = download(filter(LAYOUT_FILES.fullmatch, checksums))
    prefix = "unet/" * (find_folders(folder)[0] != folder)
    matches = filter(None, map(WEIGHT_FILES.fullmatch, checksums))
    weights = (match[0] for match in matches if (match[1] or "") == prefix)
    download(sorted(weights, key=lambda file: (bool(LAST_FILE.fullmatch(file)), file)))
    return folder


def open_hub(purpose: str) -> Any:
    """Return the Hub's client, which has the login and the endpoint."""
    hub = import_extra("huggingface_hub", "hub", purpose)
    return hub.HfApi(library_name="scorefield", library_version=version("scorefield"))


def origin(path: Path) -> dict[str, Any]:
    """Return the name with the commit, and the checksums of the weights, of a model of the Hub.

    They come from its place in the Hub's cache; nothing is known of other models.
    """
    folder, name = find_commit(path)
    if folder is None:
        return {}
    inside = "" if path == folder else f"/{path.relative_to(folder).as_posix()}"
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    sums = {f.relative_to(folder).as_posix(): _hash_file(f, hashlib.sha256()) for f in files}
    return {"hub": f"{name}{inside}", "sha256": sums}


def find_commit(path: Path) -> tuple[Path | None, str]:
    """Return the folder and the name of the commit that a path in the Hub's cache belongs to."""
    for folder in (path, *path.parents):
        match = SNAPSHOT.fullmatch(folder.parent.parent.name)
        if match and folder.parent.name == "snapshots":
            return folder, f"{HUB_PREFIX}{match[1]}/{match[2]}@{folder.name}"
    return None, ""


def hub_error(name: str, error: Exception, action: str = "downloaded") -> OSError:
    """Return an error of the Hub's client with its cause and a fix, in one line."""
    vague = isinstance(error, RuntimeError) or type(error).__name__ == "LocalEntryNotFoundError"
    if vague and isinstance(error.__cause__, Exception):
        error = error.__cause__  # that of an upload names the file alone
    status = _status(error)
    keys = (*(kind.__name__ for kind in type(error).__mro__), status)
    reason = " ".join(str(error).split()) or type(error).__name__
    again = "" if isinstance(error, ValueError) else ": check the network, and try again"
    unknown = f"{reason:.400}{again}"
    if status is not None and status >= 500:
        unknown = f"the Hub answers with status {status}: try again later"
    return OSError(
        f"{name} cannot be {action}: {next(filter(None, map(FIXES.get, keys)), unknown)}"
    )


def _status(error: Exception) -> int | None:
    """Return the status of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _find_complete(name: str, source: HubName, error: Exception) -> Path:
    """Return the newest complete model in the cache, with a warning of why; raise without one."""
    reason, file = hub_error(name, error), source.file
    folders = [] if _status(error) in (401, 403, 404) else _find_cached(source)
    complete = [f for f in folders if ((f / file).is_file() if file else _last_files(f))]
    if not complete:
        raise reason from error
    if complete[0] != folders[0]:
        reason = OSError(f"the download of the newest commit of {name} was interrupted")
    if complete[0] != folders[0] or type(error).__name__ != "OfflineModeIsEnabled":
        warnings.warn(f"{reason}; commit {complete[0].name} in the cache is used", stacklevel=3)
    return complete[0] / (file or "")


def _find_cached(source: HubName) -> list[Path]:
    """Return the place in the cache of the commit that a name stands for.

    Without a revision it is the newest one known, and those downloaded before follow.
    """
    cache = import_module("huggingface_hub.constants").HF_HUB_CACHE
    home = Path(cache, f"models--{source.repository.replace('/', '--')}")
    ref = home / "refs" / (source.revision or "main")
    commit = read_text(ref).strip() if ref.is_file() else source.revision or "unknown"
    older = sorted(home.glob("snapshots/*"), key=lambda path: -path.stat().st_mtime)
    return [home / "snapshots" / commit, *(older if source.revision is None else ())]


def _last_files(folder: Path) -> list[Path]:
    """Return the files of a commit in the cache that show that it is complete."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [p for p in files if LAST_FILE.fullmatch(p.relative_to(folder).as_posix())]


def _check(name: str, folder: Path, file: str, expected: str | None) -> None:
    """Refuse and remove a file of the cache that differs from the one that the Hub lists."""
    path = folder / file
    git = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    digest = _hash_file(path, git if len(expected or "") == 40 else hashlib.sha256())
    if digest != expected:
        for place in {path.resolve(), path, *_last_files(folder)}:  # it is no longer complete
            place.unlink(missing_ok=True)
        raise OSError(
            f"{name} is damaged: its checksum is {digest}, but the Hub lists {expected}; it was "
            "removed from the cache: try again"
        )


def _hash_file(path: Path, digest: Any) -> str:
    """Return a checksum of a file."""
    with open_regular(path) as file:
        for chunk in iter(partial(file.read, CHUNK), b""):
            digest.update(chunk)
    return str(digest.hexdigest())
