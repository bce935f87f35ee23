"""The layout of a run directory: the names of all folders and files.

recipe.yaml       the resolved recipe          versions.json   packages and plugins
taxonomy.json     classes and verticals        data.json       facts about the data
results.json      the table, for machines      report.html     the report, for people
samples/          a few test images
sweep.json, sweep.svg, best.yaml              results of `kcframe tune`
specialists/V/    one folder per specialist    arms/A/         one folder per student arm
outputs/I of N/   one folder per piece of filling the teacher cache
    stage.json               the settings at the start of the stage
    checkpoint.safetensors   during training; deleted at the end
    metrics.jsonl            one line per logged step, and one per evaluation
    bad_images.jsonl         images that were skipped, with reasons (other workers: bad_images-1.jsonl, …)
    weights.safetensors      the finished network
    student.onnx (.pt2, .safetensors), .json, .md     files of `kcframe export`
    result.json              figures and fingerprint; it exists if the stage is finished
"""

from __future__ import annotations

from urllib.parse import quote

RECIPE, VERSIONS, TAXONOMY, DATA = "recipe.yaml", "versions.json", "taxonomy.json", "data.json"
RESULTS, REPORT, SAMPLES = "results.json", "report.html", "samples/samples.json"
SWEEP, BEST, SWEEP_FIGURE = "sweep.json", "best.yaml", "sweep.svg"
CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
WEIGHTS, RESULT, STAGE = "weights.safetensors", "result.json", "stage.json"
OUTPUTS = "outputs"


def specialist_folder(vertical: str) -> str:
    """Folder of a vertical's specialist, below the run directory."""
    return f"specialists/{_folder(vertical)}"


def arm_folder(arm: str) -> str:
    """Folder of a student arm, below the run directory."""
    return f"arms/{_folder(arm)}"


def _folder(name: str) -> str:
    """A name as a folder's, from which `unquote` gives the name back; never . or .., which are others."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe=" +-_.,()&")


def outputs_folder(piece: str) -> str:
    """Folder of a piece of filling the teacher cache, below the run directory."""
    return f"{OUTPUTS}/{piece}"


def bad_images_file(folder: str, rank: int) -> str:
    """File in which one worker of a stage lists the images that it could not use."""
    return f"{folder}/bad_images{f'-{rank}' if rank else ''}.jsonl"


def sample_file(number: int) -> str:
    """A sample image's file, below the run directory."""
    return f"samples/{number:03d}.png"
