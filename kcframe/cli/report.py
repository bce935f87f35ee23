"""`kcframe report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kcframe.errors import RunDirError
from kcframe.report.build import build_report, write_figures
from kcframe.storage.run_dir import RunDir


def make_report(url: str, figures: str | None, arms: Sequence[str] = ()) -> None:
    """Write report.html into the run directory, and the figures into a local folder if one is named; these of
    some arms alone, if any are named."""
    run_dir = RunDir(url)
    if figures is not None:
        try:
            written = write_figures(run_dir, Path(figures), arms)
        except OSError as error:
            raise RunDirError(f"--figures {figures}: cannot be written: {error.strerror}") from None
        for file in written:
            click.echo(file)
    click.echo(build_report(run_dir))
