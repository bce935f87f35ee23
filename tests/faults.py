"""Kills things while a run trains on Ray, and shows what was lost.

    python -m tests.faults --kills 5 --json faults.json

Each trial starts the same recipe with two workers, kills something at a random step of the student, and
compares what the run directory holds in the end with an undisturbed run's, byte by byte:

* worker: SIGKILL to one of the two training processes
* node: SIGKILL to the raylet of the machine (a second one, started here) on which they train
* driver: SIGKILL to `kcframe run`, and the same command again
* preemption: SIGTERM to `kcframe run`, and the same command again

JSON: kills (how many were done), lost_runs (that did not end, or lost a finished stage), bit_equal (whether
all final weights are the undisturbed run's), doubled_metric_lines (steps that stand twice in the metrics).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

KINDS = ("worker", "node", "driver", "preemption")
PATIENCE = 600.0  # seconds

RECIPE = {
    "kcframe": 1,
    "name": "faults",
    "data": {
        "name": "synthetic",
        "options": {"verticals": [7, 3], "train_images": 640, "test_images": 40, "image_size": 24},
    },
    "specialists": {
        "backbone": {"name": "small-cnn", "options": {"widths": [8, 16]}},
        "train": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01},
    },
    "student": {
        "backbone": {"name": "small-cnn", "options": {"widths": [16, 32]}},
        "expander": {"name": "fc-sc", "options": {"s1": 64, "s2": 32}},
        "objective": "top-k-bce",
        "pacing": {"name": "self-paced", "options": {"start": "base-rate"}},
        "train": {
            "epochs": 10,
            "batch_size": 32,
            "learning_rate": 0.003,
            "log_every": 1,
            "evaluate_every": 0,
            "checkpoint_every": 7,
        },
    },
    "arms": {"student": {}},
    "execution": {"backend": "ray", "workers": 2, "device": "cpu", "max_failures": 5},
}
NUM_STEPS = 200


@dataclass
class Trial:
    """One kill. after_step: the last one that was saved before it."""

    kind: str
    after_step: int
    ended: bool
    bit_equal: bool
    doubled_lines: int
    specialists_kept: bool
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--kinds", default=",".join(KINDS), help="what to kill in turn; default: all")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    trials = []
    with tempfile.TemporaryDirectory() as folder, Machines() as machines:
        recipe = Path(folder) / "faults.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE))
        undisturbed = Path(folder) / "undisturbed"
        if start(recipe, undisturbed, machines).wait(PATIENCE):
            raise RuntimeError(f"the undisturbed run failed:\n{log_of(undisturbed).read_text()[-3000:]}")
        for number in range(asked.kills):
            kinds = asked.kinds.split(",")
            kind = kinds[number % len(kinds)]
            at_step = chance.randrange(10, NUM_STEPS - 30)
            trials.append(
                one_trial(kind, at_step, recipe, Path(folder) / str(number), undisturbed, machines, chance)
            )
            print(trials[-1], flush=True)
    result = {
        "kills": len(trials),
        "lost_runs": sum(not (t.ended and t.specialists_kept) for t in trials),
        "bit_equal": all(t.bit_equal for t in trials),
        "doubled_metric_lines": sum(t.doubled_lines for t in trials),
        "trials": [asdict(t) for t in trials],
    }
    print_table(trials)
    if asked.json:
        Path(asked.json).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(result["lost_runs"] or not result["bit_equal"] or result["doubled_metric_lines"]))


class Machines:
    """A Ray cluster on this machine: a head without CPUs, and two machines that can be killed."""

    def __enter__(self) -> Machines:
        from ray.cluster_utils import Cluster

        from kcframe.run.backends.ray.cluster import PATIENCE as PATIENT

        os.environ.update({**PATIENT, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"})
        memory = {"object_store_memory": 100 * 2**20}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
        )
        self.memory = memory
        self.others = [self.cluster.add_node(num_cpus=2, **memory) for _ in range(2)]
        self.address = self.cluster.address
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()

    def workers(self) -> list[int]:
        """Process ids of the worker group: this cluster's, others may run on this machine."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self.others}
        return [process for process in train_workers() if parent_of(process) in raylets]

    def kill_node_of(self, worker: int) -> None:
        """Kill the raylet that is the worker's parent, and start another machine in its place."""
        raylet = parent_of(worker)
        for node in self.others:
            if node.all_processes["raylet"][0].process.pid == raylet:
                self.cluster.remove_node(node, allow_graceful=False)
                self.others.remove(node)
                self.others.append(self.cluster.add_node(num_cpus=2, **self.memory))
                return
        raise RuntimeError(f"worker {worker} runs on no machine of this cluster")


def one_trial(
    kind: str,
    at_step: int,
    recipe: Path,
    run_dir: Path,
    undisturbed: Path,
    machines: Machines,
    chance: random.Random,
) -> Trial:
    began = time.monotonic()
    process = start(recipe, run_dir, machines)
    reached = wait_for_step(run_dir, at_step, process)
    # Metrics are written with checkpoints: somewhere between two of them.
    time.sleep(chance.uniform(0, 0.3))
    kept = specialist_times(run_dir)
    if kind in ("worker", "node"):
        worker = machines.workers()[0]
        if kind == "worker":
            os.kill(worker, signal.SIGKILL)
        else:
            machines.kill_node_of(worker)
    else:
        process.send_signal(signal.SIGKILL if kind == "driver" else signal.SIGTERM)
        code = wait(process)
        if kind == "preemption" and code != 130:
            raise RuntimeError(f"stopped by SIGTERM, `kcframe run` ended with {code} instead of 130")
        process = start(recipe, run_dir, machines)
    ended = wait(process) == 0 and (run_dir / "results.json").exists()
    if not ended:
        print(log_of(run_dir).read_text()[-5000:], file=sys.stderr)
    steps = steps_of(run_dir)
    ended = ended and sorted(set(steps)) == list(range(1, NUM_STEPS + 1))
    return Trial(
        kind,
        reached,
        ended,
        ended and weights(run_dir) == weights(undisturbed),
        len(steps) - len(set(steps)),
        specialist_times(run_dir) == kept,
        round(time.monotonic() - began, 1),
    )


def wait(process: subprocess.Popen) -> int | None:
    """The exit code; None, and the process is killed, if it hangs."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return None


def start(recipe: Path, run_dir: Path, machines: Machines) -> subprocess.Popen:
    command = [sys.executable, "-m", "kcframe", "run", recipe, "--run-dir", run_dir]
    log = log_of(run_dir).open("a")
    return subprocess.Popen(
        [*map(str, command), "--address", machines.address], stdout=log, stderr=subprocess.STDOUT
    )


def log_of(run_dir: Path) -> Path:
    """What `kcframe run` has printed."""
    return run_dir.parent / f"{run_dir.name}.log"


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen) -> int:
    """Until the metrics have reached a step; returns the last step in them."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        steps = steps_of(run_dir)
        if steps and steps[-1] >= step:
            return steps[-1]
        if process.poll() is not None:
            said = log_of(run_dir).read_text()[-3000:]
            raise RuntimeError(f"the run ended by itself before step {step}:\n{said}")
        time.sleep(0.05)
    raise RuntimeError(f"no step {step} within {PATIENCE:.0f} s")


def steps_of(run_dir: Path) -> list[int]:
    """Steps that the student's metrics hold, in file order."""
    file = run_dir / "arms/student/metrics.jsonl"
    if not file.exists():
        return []
    lines = map(json.loads, file.read_text().splitlines())
    return [line["step"] for line in lines if line["kind"] == "step"]


def weights(run_dir: Path) -> bytes:
    return (run_dir / "arms/student/weights.safetensors").read_bytes()


def specialist_times(run_dir: Path) -> list[int]:
    return [file.stat().st_mtime_ns for file in sorted(run_dir.glob("specialists/*/result.json"))]


def of_this_process(processes: list[int]) -> list[int]:
    """Those whose raylet was started by this process: others may run Ray on this machine."""
    return [process for process in processes if parent_of(parent_of(process)) == os.getpid()]


def train_workers() -> list[int]:
    """Process ids of all Ray Train workers on this machine."""
    return processes_called(b"RayTrainWorker")


def processes_called(name: bytes) -> list[int]:
    """Process ids of all commands on this machine that have `name` in them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if name in command:
                found.append(int(entry.name))
    return sorted(found)


def parent_of(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def print_table(trials: list[Trial]) -> None:
    print("| killed | after step | run ended | weights bit-equal | doubled lines | seconds |")
    print("|---|---|---|---|---|---|")
    for t in trials:
        yes = {True: "yes", False: "no"}
        print(
            f"| {t.kind} | {t.after_step} | {yes[t.ended]} | {yes[t.bit_equal]} | "
            f"{t.doubled_lines} | {t.seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
