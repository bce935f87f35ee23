"""`kcframe report`: write a run's report again."""

from __future__ import annotations

from pathlib import Path

import click

from kcframe.errors import RunDirError
from kcframe.storage.run_dir import RunDir


@click.command("report")
@click.argument("run_dir", metavar="RUN")
@click.option("--figures", metavar="FOLDER", help="Write the report's figures there too, as SVG files.")
@click.option("--arm", "arms", multiple=True, metavar="NAME", help="Of this arm alone. May be repeated.")
def command(run_dir: str, figures: str | None, arms: tuple[str, ...]) -> None:
    """Make a run's report.html anew from its run directory."""
    if arms and figures is None:
        raise click.UsageError("--arm chooses what --figures draws: name a folder for them")
    from kcframe.report.build import build_report, write_figures

    run = RunDir(run_dir)
    if figures is not None:
        try:
            files = write_figures(run, Path(figures), arms)
        except OSError as error:
            raise RunDirError(f"--figures {figures}: cannot be written: {error.strerror}") from None
        for file in files:
            click.echo(file)
    click.echo(build_report(run))
