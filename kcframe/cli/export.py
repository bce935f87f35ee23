"""`kcframe export`: write a student as a file for another runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kcframe.cli.options import PLUGIN, STUDENT
from kcframe.errors import DataError, TrainingError
from kcframe.storage.layout import arm_folder
from kcframe.storage.remote import without_secrets

if TYPE_CHECKING:
    from kcframe.students.export import Format


@click.command("export")
@STUDENT
@click.option(
    "--to", default="onnx", show_default=True, type=click.Choice(["onnx", "torch.export", "safetensors"])
)
@click.option("--out", metavar="FILE", help="Default: beside the student's weights, in the run directory.")
@click.option("--top-k", type=click.IntRange(1), metavar="K", help="Give K classes, not all logits.")
@click.option("--licence", metavar="TEXT", help="Of the weights, for the model card.")
@PLUGIN
def command(run: str, to: Format, out: str | None, top_k: int | None, licence: str | None) -> None:
    """Write a student as a file for another runtime, with its classes, its transform and a model card."""
    from kcframe.students.export import ENDINGS, export
    from kcframe.students.load import load

    classifier = load(run)
    if out is None:
        if classifier.run_dir is None:
            raise DataError("say where to write it: --out FILE")
        out = classifier.run_dir.path(f"{arm_folder(classifier.arm)}/student{ENDINGS[to]}")
    exported = export(classifier, to, out, top_k, licence)
    if exported.difference is None:
        click.echo("not compared with PyTorch: onnxruntime is not installed")
    else:
        click.echo(
            f"compared with PyTorch on {exported.compared_on}: largest difference of {exported.compared} "
            f"{exported.difference:.1e}"
        )
    for file in exported.files:
        click.echo(without_secrets(file))
    if not exported.agrees:
        raise TrainingError("the file does not say what the student says: do not use it, and tell us")
