"""`kcframe submit` runs a recipe as a Ray job; `kcframe job` follows or stops such a job."""

from __future__ import annotations

from collections.abc import Sequence

import click
import yaml

from kcframe.cli.options import PLUGIN, RECIPE, SET
from kcframe.errors import KcframeError, RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.storage.run_dir import RunDir

JOB = click.argument("job_id", metavar="JOB")
DASHBOARD = click.option(
    "--address",
    required=True,
    envvar="RAY_API_SERVER_ADDRESS",
    metavar="URL",
    help="The cluster's dashboard, e.g. http://head:8265; else $RAY_API_SERVER_ADDRESS.",
)


class JobFailed(KcframeError):
    """The job ended, but not well; its log says why."""


@click.command("submit")
@RECIPE
@SET
@PLUGIN
@DASHBOARD
@click.option(
    "--run-dir", required=True, metavar="URL", help="Where the run is kept: the cluster must reach it."
)
@click.option("--wait/--no-wait", default=True, help="Show what it prints until it ends. Default: wait.")
def submit(recipe: str, overrides: tuple[str, ...], address: str, run_dir: str, wait: bool) -> None:
    """Run a recipe on a cluster as a Ray job, which goes on when this machine goes home."""
    submit_recipe(recipe, overrides, address, run_dir, wait)


@click.command("logs")
@JOB
@DASHBOARD
def logs(job_id: str, address: str) -> None:
    """Show what a job prints until it ends."""
    follow_job(address, job_id)


@click.command("stop")
@JOB
@DASHBOARD
def stop(job_id: str, address: str) -> None:
    """Stop a job; what it has done is kept."""
    stop_job(address, job_id)


def submit_recipe(source: str, overrides: Sequence[str], address: str, run_dir: str, wait: bool) -> None:
    """Check a recipe on this machine and submit it to the cluster. wait: show what the job prints."""
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
    """Show what a job prints until it ends. Ctrl-C does not stop the job. Raises JobFailed if it failed."""
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
    """Stop a job. Its run directory keeps what it has done."""
    from kcframe.run.backends.ray.jobs import Jobs

    Jobs(address).stop(job)
    click.echo(f"job {job} was asked to stop; the same submission goes on where it stopped")
