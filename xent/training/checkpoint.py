"""Checkpoints: all that a run needs to resume as if it had never stopped.

One file with its checksum, the file before it, and a lock.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from xent.recording.errors import BadInput, in_one_line
from xent.recording.files import write_whole
from xent.recording.processes import rank
from xent.training.loop import Training

VERSION = 5
FILE = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
STATES = ("model", "loss", "optimizer", "recorder")
DIGEST = 32  # bytes of the checksum at the end of the file
# Settings that may change when a run resumes, besides the machine's. A run that changed is not matched with one that
# always had its present settings.
MAY_CHANGE = ("epochs", "processes", "accumulate", "device")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run's folder and lock it against other trainings; remove it if nothing was written there.

    The lock ends with the process, however that ends. With several processes, rank 0 does all this.

    Raises:
        BadInput: another process trains there.
    """
    if rank() > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(f"another process trains in {folder}: wait for it, or give another folder") from None
    try:
        yield
    finally:
        if [path.name for path in folder.iterdir()] == [".lock"]:
            shutil.rmtree(folder)
        lock.release()


def save(folder: Path, training: Training, overrides: list[str]) -> None:
    """Write `checkpoint.pt` atomically, and keep the one before it.

    Args:
        overrides: the command line of the run.

    Raises:
        Stopped: the file cannot be written.
    """
    content = BytesIO()
    states = {name: getattr(training, name).state_dict() for name in STATES}
    random = {kind: generator.get_rng_state() for kind, generator in _generators(training).items()}
    torch.save(states | {"version": VERSION, "overrides": overrides, "random": random}, content)
    content.write(sha256(content.getbuffer()).digest())
    write_whole(folder / FILE, content, previous=folder / PREVIOUS)


def load(folder: Path) -> dict[str, Any] | None:
    """Read the newest undamaged checkpoint, and rename damaged ones. None if there is no checkpoint.

    Raises:
        BadInput: every checkpoint there is damaged, or of another version.
    """
    damaged: dict[Path, str] = {}
    # A run that was killed while it wrote a checkpoint may have left only the one before it.
    for file in filter(Path.exists, (folder / FILE, folder / PREVIOUS)):
        try:
            saved = _read(file)
        except BadInput as error:
            damaged[file] = str(error)
            continue
        for newer, reason in damaged.items():
            aside = newer.rename(newer.with_suffix(".damaged"))
            step = len(saved["recorder"]["losses"])
            print(f"{reason}: it is now {aside.name}, going back to step {step}, {file.name}", file=sys.stderr)
        return saved
    if damaged:
        raise BadInput(f"{'; '.join(damaged.values())}: train the run again in another folder")
    return None


def _read(file: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        BadInput: it is damaged, or of another version.
    """
    try:
        content = file.read_bytes()
        if sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
            raise ValueError("wrong checksum, or an older version")
        saved = torch.load(BytesIO(content[:-DIGEST]), map_location="cpu", weights_only=True)  # runs no code
        version = saved["version"]
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(f"{file} is damaged ({reason})") from error
    if version != VERSION:
        raise BadInput(f"{file} is of version {version}, this xent reads {VERSION}")
    return saved


def changed_settings(saved: dict[str, Any], settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings that change when a run resumes: their old values by name, empty if nothing changes.

    Args:
        saved: the checkpoint.
        settings: those of the run now.
        folder: the folder of the run, for the message.

    Raises:
        BadInput: a setting changes that may not, or epochs become fewer. The machine's and MAY_CHANGE may.
    """
    old = {key: value for key, value in saved["recorder"]["settings"].items() if key != "before"}
    changed = {key: old.get(key) for key in old | settings if old.get(key) != settings.get(key)}
    refused = [
        f"{key}={before}, not {settings.get(key)}"
        for key, before in changed.items()
        if key.partition(".")[0] not in (*MAY_CHANGE, "machine") or (key == "epochs" and settings["epochs"] < before)
    ]
    if refused:
        raise BadInput(f"{folder} holds a run with {', '.join(refused)}: give its settings, or another folder")
    return changed


def restore(saved: dict[str, Any], training: Training, changed: dict[str, Any]) -> None:
    """Restore a training, built from the same settings, from a checkpoint; and PyTorch's random number generators.

    Do this last.

    Args:
        changed: the old values of changed settings; the trace keeps them as its setting `before`.

    Raises:
        BadInput: the states do not fit, as with other parameters.
    """
    settings, state = training.recorder.trace.settings, saved["recorder"]
    before = state["settings"].get("before", []) + ([changed] if changed else [])
    if before:
        settings["before"] = before
    state = state | {"settings": settings, "steps": training.recorder.steps}  # changed_settings has allowed these
    for name in STATES:
        try:
            getattr(training, name).load_state_dict((saved | {"recorder": state})[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise BadInput(f"the {name} is not what it was when the run began ({in_one_line(error)})") from error
    for kind, generator in _generators(training).items():
        if kind in saved["random"]:  # a run that resumes on another kind of device draws from its seed there
            generator.set_rng_state(saved["random"][kind])


def _generators(training: Training) -> dict[str, Any]:
    """The modules whose generators a training may draw from, by kind of device."""
    device = next(training.model.parameters()).device
    return {device.type: torch.get_device_module(device), "cpu": torch.random}
