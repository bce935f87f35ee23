"""The Ray cluster: connecting to it, and asking what it has."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow.fs
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kcframe.errors import KcframeError, PluginError, RunDirError
from kcframe.recipe.schema import Execution, Recipe
from kcframe.registry import installed
from kcframe.storage.layout import RECIPE
from kcframe.storage.run_dir import RunDir

# Machines that are busy starting other things need longer than Ray gives them.
PATIENCE = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_raylet_start_wait_time_s": "120",
}
SETTINGS = {
    **PATIENCE,
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe's relative paths mean the same everywhere
}


MANY = 1_000_000
PROBE = ".seen"  # a file in the folder that keeps what teachers say, to see which machines see it


class ClusterError(KcframeError):
    """There is no such cluster, or it lacks what the recipe asks for."""


def connect(execution: Execution) -> None:
    """Connect to the cluster that the recipe, or RAY_ADDRESS, names; else start one on this machine."""
    refuse_plugin_files()
    if ray.is_initialized():
        return
    with _own_signal_handlers():
        _connect(execution)


def refuse_plugin_files() -> None:
    """PluginError if this process has a plugin that is a file of its own: other processes have not."""
    registry = installed()
    for path in registry.files:
        own = (key for key, known in registry.components.items() if known.where == path)
        kind, name = next(own, ("KIND", "NAME"))
        raise PluginError(
            f"--plugin {path}: a cluster's other processes do not have this file. Package it (`kcframe new "
            f"{kind} {name}` writes a distribution to move it to) and pip install that on every machine; or "
            "try the file with --backend local"
        )


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep them: Ray's ends the process at SIGTERM, ours asks for a checkpoint first."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(execution: Execution) -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    address = execution.address or os.environ.get("RAY_ADDRESS")
    settings = {"log_to_driver": False, "logging_level": "ERROR"}
    if address in (None, "local"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", include_dashboard=False, **settings)
        return
    with refusals_in_words(address):
        try:
            ray.init(address, **settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"no Ray cluster answers at '{address}' ({first_line(error)}). Start one with `ray start "
                "--head` (and set RAY_AUTH_MODE=token here if it says that it wants tokens), or leave out "
                "the address to use this machine alone"
            ) from None


@contextmanager
def refusals_in_words(address: str) -> Iterator[None]:
    """ClusterError where a cluster asks for a token that this process does not show."""
    try:
        yield
    except ray.exceptions.AuthenticationError:
        raise ClusterError(
            f"the Ray cluster at '{address}' asks for a token: set RAY_AUTH_MODE=token, and have the head's "
            "token in ~/.ray/auth_token or RAY_AUTH_TOKEN (or start the cluster with RAY_AUTH_MODE=disabled)"
        ) from None


def first_line(error: Exception) -> str:
    """An error's text without what follows its first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_short(error: Exception) -> str:
    """An error's text on one line, its beginning and its end."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:200]} … {text[-300:]}"


def resources_of_worker(execution: Execution) -> dict[str, float]:
    """What one worker asks for: as the recipe says, else 1 CPU, and 1 GPU where there are any.

    On the CPU it asks for no GPU, whatever the recipe says: it would only keep others from it.
    """
    if execution.resources_per_worker:
        asked = dict(execution.resources_per_worker)
        if execution.device == "cpu":
            asked.pop("GPU", None)
        return asked
    gpus = execution.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    return {"CPU": 1.0, **({"GPU": 1.0} if gpus else {})}


def storage_of_ray(url: str) -> tuple[str, Any]:
    """(path, pyarrow file system or None) by which Ray Train and Ray Tune reach any fsspec URL."""
    if "://" not in url:
        return RunDir(url).url, None
    return fsspec.url_to_fs(url)[1], pyarrow.fs.PyFileSystem(_ByUrl(url))


class _ByUrl(pyarrow.fs.FSSpecHandler):
    """A file system that is pickled as its URL alone: its own pickle holds its keys, and Ray Tune writes it
    into the sweep's folder. Whoever reads it has the keys in its own configuration."""

    def __init__(self, url: str):
        self.url = url
        super().__init__(fsspec.url_to_fs(url)[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _ByUrl, (self.url,)


def room_for(wanted: dict[str, float]) -> int:
    """How many workers that each want this the cluster's machines have room for, were they idle."""
    room = 0
    for node in ray.nodes():
        if node["Alive"]:
            machine = node["Resources"]
            fits = [int(machine.get(name, 0.0) / amount) for name, amount in wanted.items() if amount > 0]
            room += min(fits, default=MANY)
    return room


def lacking(wanted: dict[str, float], workers: int) -> str | None:
    """What no machine of the cluster has now, or None. An autoscaler may still bring it."""
    room = room_for(wanted)
    if room >= workers:
        return None
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    return f"{workers} worker{'s' if workers > 1 else ''} with {asked} each; there is room for {room}"


def check_shared(run_dir: RunDir, recipe: Recipe) -> None:
    """RunDirError if the run directory, or the folder that keeps what teachers say, is a local one that some
    machine of the cluster does not see."""
    _check_shared(run_dir, RECIPE, "--run-dir")
    if recipe.teacher_cache is not None:
        store = RunDir(recipe.teacher_cache.url)
        if store.local and not store.exists(PROBE):
            store.write(PROBE, uuid.uuid4().hex)
        _check_shared(store, PROBE, "teacher_cache.url")


def _check_shared(folder: RunDir, file: str, option: str) -> None:
    """file: one that lies in the folder. option: that names it."""
    if not folder.local:
        return
    if ray.util.client.ray.is_connected():
        raise RunDirError(
            f"{folder}: a folder of this machine, which a cluster behind ray:// does not see: give "
            f"{option} a URL that both reach (s3://…)"
        )
    here = ray.get_runtime_context().get_node_id()
    written = folder.read(file)

    def sees(url: str) -> bool:
        other = RunDir(url)
        return other.exists(file) and other.read(file) == written

    task = ray.remote(sees)
    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != here:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = task.options(num_cpus=0, scheduling_strategy=there).remote(
                folder.url
            )
    blind = [address for address, answer in asked.items() if not ray.get(answer)]
    if blind:
        raise RunDirError(
            f"{folder}: a folder of this machine, but the cluster's {', '.join(blind)} cannot see it: give "
            f"{option} a URL that all of them reach (s3://…), or a shared file system"
        )
