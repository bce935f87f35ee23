"""`kcframe submit` and `kcframe job`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import yaml

from kcframe.errors import KcframeError, RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.storage.run_dir import RunDir


class JobFailed(KcframeError):
    """The job ended, but not well; its log says why."""


def submit_recipe(source: str, overrides: Sequence[str], address: str, run_dir: str, wait: bool) -> None:
    """Check a recipe here, run it there, and show what it prints."""
    recipe = load_recipe(source, installed(), overrides)
    if RunDir(run_dir).url != run_dir.rstrip("/") and "://" not in run_dir:
        raise RecipeError(
            f"--run-dir {run_dir}: is relative to this machine's folder; give a URL that the whole cluster "
            "reaches (s3://…), or the absolute path of a shared folder"
        )
    from kcframe.run.backends.ray.jobs import Jobs

    jobs = Jobs(address)
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    job = jobs.submit(resolved, run_dir, recipe.execution.packages)
    click.echo(f"job {job} of {address}")
    if wait:
        follow_job(address, job)
    else:
        click.echo(f"to see what it prints: kcframe job logs {job} --address {address}")


def follow_job(address: str, job: str) -> None:
    """Show what a job prints until it ends. Ctrl-C leaves it alone."""
    from kcframe.run.backends.ray.jobs import Jobs

    jobs = Jobs(address)
    try:
        status = jobs.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\nthe job goes on. To stop it: kcframe job stop {job} --address {address}")
        return
    if status != "SUCCEEDED":
        raise JobFailed(f"job {job}: {status.lower()}. {jobs.why(job)}".strip())


def stop_job(address: str, job: str) -> None:
    """Stop a job; what it has done is kept in its run directory."""
    from kcframe.run.backends.ray.jobs import Jobs

    Jobs(address).stop(job)
    click.echo(f"job {job} was asked to stop; the same submission goes on where it stopped")
