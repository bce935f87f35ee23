"""The command line: a table of all commands, and the handling of errors.

Each command has its own file with its options and its code. `LazyGroup` imports that file only when the
command is called, so `kcframe --help` imports neither torch nor ray.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

import kcframe
from kcframe.errors import KcframeError

# name: (MODULE:ATTRIBUTE of the command, first line of its docstring)
COMMANDS = {
    "cache": (
        "kcframe.cli.cache:command",
        "Ask a recipe's teachers about all training pictures once, and keep what they say for its arms.",
    ),
    "check-plugin": (
        "kcframe.cli.check_plugin:command",
        "Put a plugin to the checks of its kind: shapes, gradients, saved state, whole tiny runs.",
    ),
    "compare": (
        "kcframe.cli.compare:command",
        "One table over several runs of a recipe: mean and standard deviation over their seeds.",
    ),
    "describe": (
        "kcframe.cli.describe:command",
        "Show a recipe's layers and parameters, and what reading its pictures costs; nothing is trained.",
    ),
    "evaluate": (
        "kcframe.cli.evaluate:command",
        "Measure a run's students and specialists on other pictures, "
        "or on the run's own test pictures again.",
    ),
    "export": (
        "kcframe.cli.export:command",
        "Write a student as a file for another runtime, with its classes, its transform and a model card.",
    ),
    "new": (
        "kcframe.cli.new:command",
        "Write a new plugin that works: a folder with a class, a README and tests.",
    ),
    "plugins": (
        "kcframe.cli.plugins:command",
        "List the installed plugins, or one plugin's options: kcframe plugins pacing self-paced.",
    ),
    "predict": (
        "kcframe.cli.predict:command",
        "What a student sees in pictures: files, folders, patterns or URLs (any fsspec protocol).",
    ),
    "probe": (
        "kcframe.cli.probe:command",
        "How good a student's features are for a task that it was not trained for.",
    ),
    "report": (
        "kcframe.cli.report:command",
        "Make a run's report.html anew from its run directory.",
    ),
    "run": (
        "kcframe.cli.run:command",
        "Train and measure everything a recipe names; go on where an earlier run stopped.",
    ),
    "serve": (
        "kcframe.cli.serve:command",
        "Answer over HTTP: POST /predict, a page to drop a picture on, /healthz and /metrics.",
    ),
    "submit": (
        "kcframe.cli.submit:submit",
        "Run a recipe on a cluster as a Ray job, which goes on when this machine goes home.",
    ),
    "tune": (
        "kcframe.cli.tune:command",
        "Try values for the fields in a recipe's search section (Ray Tune); keep the best as best.yaml.",
    ),
    "validate": (
        "kcframe.cli.validate:command",
        "Check recipes: all errors at once, each with its place and the nearest valid name.",
    ),
}
JOB_COMMANDS = {
    "logs": ("kcframe.cli.submit:logs", "Show what a job prints until it ends."),
    "stop": ("kcframe.cli.submit:stop", "Stop a job; what it has done is kept."),
}
BENCH_COMMANDS = {
    "data": (
        "kcframe.cli.bench.data:command",
        "Pictures a second, loaded and augmented, from a recipe's data source; or from made-up JPEG files.",
    ),
    "head": (
        "kcframe.cli.bench.head:command",
        "A step of head, pacing and objective, over its bare matrix products and the dense way.",
    ),
    "labels": (
        "kcframe.cli.bench.labels:command",
        "How long a run waits for Open Images' labels, and the memory they take: first, and from the cache.",
    ),
    "serve": (
        "kcframe.cli.bench.serve:command",
        "Latency and pictures a second of `kcframe serve` under load, with batching and without.",
    ),
    "step": (
        "kcframe.cli.bench.step:command",
        "A whole training step: what teachers cost it, or (--backend ray) what Ray does.",
    ),
}


class LazyCommand(click.Command):
    """Stands in a group's help for a command whose module is not imported yet. target: MODULE:ATTRIBUTE."""

    def __init__(self, name: str, target: str, help: str):
        super().__init__(name, help=help)
        self.target = target

    def load(self) -> click.Command:
        """Import the module and return the command itself."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


class LazyGroup(click.Group):
    """A group that imports the module of a command only when that command is called.

    table: name -> (MODULE:ATTRIBUTE, the command's line in the group's help).
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **settings: Any):
        super().__init__(*arguments, **settings)
        for name, (target, help_line) in table.items():
            self.add_command(LazyCommand(name, target, help_line))

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names, imported, and the arguments after it."""
        name, command, rest = super().resolve_command(context, arguments)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kcframe.__version__, prog_name="kcframe")
def cli() -> None:
    """Concentrate what many specialist classifiers know into one student."""


@cli.group(cls=LazyGroup, table=JOB_COMMANDS)
def job() -> None:
    """Follow or stop what `kcframe submit` started."""


@cli.group(cls=LazyGroup, table=BENCH_COMMANDS)
def bench() -> None:
    """Measure what things cost on this machine."""


def main() -> NoReturn:
    """Entry point: a user's mistake is a message, never a traceback."""
    try:
        cli.main(standalone_mode=False)
        sys.exit(0)
    except KcframeError as error:
        click.echo(f"error: {error}" if error.exit_code != 130 else str(error), err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader closed the pipe (kcframe … | head).
        sys.stderr.close()
        sys.exit(141)
