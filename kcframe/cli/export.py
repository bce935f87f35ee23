"""`kcframe export`: a student as a file for another runtime."""

from __future__ import annotations

import click

from kcframe.errors import DataError, TrainingError
from kcframe.storage.layout import arm_folder
from kcframe.storage.remote import without_secrets
from kcframe.students.export import ENDINGS, Format, export
from kcframe.students.load import load


def export_student(run: str, to: Format, out: str | None, top_k: int | None, licence: str | None) -> None:
    """Write it and say how its outputs differ from PyTorch's. Raises TrainingError if that is no rounding."""
    classifier = load(run)
    if out is None:
        if classifier.run_dir is None:
            raise DataError("say where to write it: --out FILE")
        out = classifier.run_dir.path(f"{arm_folder(classifier.arm)}/student{ENDINGS[to]}")
    found = export(classifier, to, out, top_k, licence)
    if found.difference is None:
        click.echo("not compared with PyTorch: onnxruntime is not installed")
    else:
        click.echo(
            f"compared with PyTorch on {found.compared_on}: largest difference of {found.compared} "
            f"{found.difference:.1e}"
        )
    for file in found.files:
        click.echo(without_secrets(file))
    if not found.agrees:
        raise TrainingError("the file does not say what the student says: do not use it, and tell us")
