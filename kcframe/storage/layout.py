"""The layout of a run directory: every folder and file name, once.

recipe.yaml       the resolved recipe          versions.json   packages and plugins
taxonomy.json     classes and verticals        data.json       facts about the data
results.json      the table, for machines      report.html     the report, for people
samples/          a few test images
sweep.json, sweep.svg, best.yaml              what `kcframe tune` found
specialists/V/    one folder a specialist      arms/A/         one folder a student arm
outputs/I of N/   finish mark of a piece of the work of keeping what teachers say
    stage.json               the settings it was begun with
    checkpoint.safetensors   while training; deleted when finished
    metrics.jsonl            one line a logged step, one an evaluation
    bad_images.jsonl         images that were skipped, with reasons (…-1 and so on: by other workers)
    weights.safetensors      the finished network
    student.onnx (.pt2, .safetensors), .json, .md     what `kcframe export` wrote
    result.json              the finish mark: figures, fingerprint
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
    return f"specialists/{quote(vertical, safe=' +-_.,()&')}"


def arm_folder(arm: str) -> str:
    """Folder of a student arm, below the run directory."""
    return f"arms/{quote(arm, safe=' +-_.,()&')}"


def outputs_folder(piece: str) -> str:
    """Folder of a piece of the work of keeping what teachers say, below the run directory."""
    return f"{OUTPUTS}/{piece}"


def bad_images_file(folder: str, rank: int) -> str:
    """Where one worker of a stage lists the images that it could not use."""
    return f"{folder}/bad_images{f'-{rank}' if rank else ''}.jsonl"


def sample_file(number: int) -> str:
    """A sample image's file, below the run directory."""
    return f"samples/{number:03d}.png"
