"""The command line. Thin: torch, ray and everything heavy are imported inside the commands."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

import kcframe
from kcframe.errors import KcframeError

RECIPE = click.argument("recipe", metavar="RECIPE")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a value of the recipe, e.g. --set student.expander.options.s2=64. May be repeated.",
)


def _load_plugins(context: click.Context, parameter: click.Parameter, files: tuple[str, ...]) -> None:
    from kcframe.registry import installed

    for file in files:
        installed().add_file(file)


PLUGIN = click.option(
    "--plugin",
    multiple=True,
    metavar="FILE",
    expose_value=False,
    is_eager=True,
    callback=_load_plugins,
    help="Load a plugin from a Python file, to try an idea before packaging it. May be repeated.",
)


BACKEND = click.option("--backend", metavar="NAME", help="local, or ray: short for --set execution.backend=…")
ADDRESS = click.option("--address", metavar="ADDRESS", help="The Ray cluster's; with it the backend is ray.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kcframe.__version__, prog_name="kcframe")
def cli() -> None:
    """Concentrate what many specialist classifiers know into one student."""


@cli.command()
@RECIPE
@SET
@PLUGIN
@click.option("--run-dir", metavar="URL", help="Where the run is kept (any fsspec URL). Default: runs/NAME.")
@click.option("--arm", "arms", multiple=True, metavar="NAME", help="Only this arm. May be repeated.")
@BACKEND
@ADDRESS
@click.option("--workers", metavar="N", help="Workers of a student; with it the backend is ray.")
@click.option(
    "--log",
    "trackers",
    multiple=True,
    metavar="CALLBACK",
    help="Watch it elsewhere too, e.g. --log tensorboard; in place of the recipe's callbacks.",
)
def run(
    recipe: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    arms: tuple[str, ...],
    backend: str | None,
    address: str | None,
    workers: str | None,
    trackers: tuple[str, ...],
) -> None:
    """Train and measure everything a recipe names; go on where an earlier run stopped."""
    from kcframe.cli.run import execution_overrides, run_recipe

    logged = [f"callbacks=[{', '.join(trackers)}]"] if trackers else []
    given = (*overrides, *execution_overrides(backend, address, workers), *logged)
    run_recipe(recipe, given, run_dir, arms)


@cli.command()
@RECIPE
@SET
@PLUGIN
@click.option("--run-dir", metavar="URL", help="Of the run whose specialists are asked. Default: runs/NAME.")
@click.option("--url", metavar="URL", help="Where outputs are kept: short for --set teacher_cache.url=…")
@BACKEND
@ADDRESS
@click.option("--verify", is_flag=True, help="Read all that is kept, and ask again about a sample of it.")
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="With --verify: images of each teacher, an epoch.",
)
def cache(
    recipe: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    url: str | None,
    backend: str | None,
    address: str | None,
    verify: bool,
    samples: int,
) -> None:
    """Ask a recipe's teachers about all training pictures once, and keep what they say for its arms."""
    from kcframe.cli.cache import cache_outputs

    cache_outputs(recipe, overrides, run_dir, url, backend, address, samples if verify else None)


@cli.command()
@RECIPE
@SET
@PLUGIN
@click.option("--run-dir", metavar="URL", help="Where the sweep is kept. Default: runs/NAME-sweep.")
def tune(recipe: str, overrides: tuple[str, ...], run_dir: str | None) -> None:
    """Try values for the fields in a recipe's search section (Ray Tune); keep the best as best.yaml."""
    from kcframe.cli.tune import tune_recipe

    tune_recipe(recipe, overrides, run_dir)


@cli.command()
@click.argument("recipes", metavar="RECIPE…", nargs=-1, required=True)
@SET
@PLUGIN
def validate(recipes: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Check recipes: all errors at once, each with its place and the nearest valid name."""
    from kcframe.cli.validate import validate_recipes

    validate_recipes(recipes, overrides)


@cli.command()
@RECIPE
@SET
@PLUGIN
def describe(recipe: str, overrides: tuple[str, ...]) -> None:
    """Show a recipe's layers and parameters, and what reading its pictures costs; nothing is trained."""
    from kcframe.cli.describe import describe_recipe

    describe_recipe(recipe, overrides)


@cli.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@PLUGIN
def plugins(kind: str | None, name: str | None) -> None:
    """List the installed plugins, or one plugin's options: kcframe plugins pacing self-paced."""
    from kcframe.cli.plugins import show_plugins

    show_plugins(kind, name)


@cli.command("check-plugin")
@click.argument("name", metavar="NAME")
@click.option("--kind", metavar="KIND", help="Where several plugins have the name; or write KIND/NAME.")
@click.option("--options", metavar="YAML", help="As a recipe would give them, e.g. '{rate: 0.5}'.")
@click.option("--recipe", metavar="RECIPE", help="Options from there, and the data that teachers know.")
@PLUGIN
def check_plugin(name: str, kind: str | None, options: str | None, recipe: str | None) -> None:
    """Put a plugin to the checks of its kind: shapes, gradients, saved state, whole tiny runs."""
    from kcframe.cli.check_plugin import check_plugin

    check_plugin(name, kind, options, recipe)


@cli.command()
@click.argument("kind", metavar="KIND")
@click.argument("name", metavar="NAME")
@click.option("--folder", metavar="DIR", default=".", help="Where its folder is put. Default: here.")
def new(kind: str, name: str, folder: str) -> None:
    """Write a new plugin that works: a folder with a class, a README and tests."""
    from kcframe.cli.new import new_plugin

    new_plugin(kind, name, folder)


@cli.command()
@click.argument("run_dirs", metavar="RUN…", nargs=-1, required=True)
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
def compare(run_dirs: tuple[str, ...], markdown: bool) -> None:
    """One table over several runs of a recipe: mean and standard deviation over their seeds."""
    from kcframe.cli.compare import compare_runs

    compare_runs(run_dirs, markdown)


@cli.command()
@click.argument("run_dir", metavar="RUN")
@click.option("--figures", metavar="FOLDER", help="Write the report's figures there too, as SVG files.")
@click.option("--arm", "arms", multiple=True, metavar="NAME", help="Of this arm alone. May be repeated.")
def report(run_dir: str, figures: str | None, arms: tuple[str, ...]) -> None:
    """Make a run's report.html anew from its run directory."""
    from kcframe.cli.report import make_report

    if arms and figures is None:
        raise click.UsageError("--arm chooses what --figures draws: name a folder for them")
    make_report(run_dir, figures, arms)


STUDENT = click.argument("run", metavar="RUN[:ARM]")
JSON = click.option("--json", "json_file", metavar="FILE", help="Write the figures there.")
DEVICE = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])
)


SOME = click.FloatRange(0.001, 1_000_000)


def _batch(default: int):
    return click.option(
        "--batch", default=default, show_default=True, type=click.IntRange(1), help="Pictures at a time."
    )


@cli.command()
@STUDENT
@click.argument("pictures", metavar="PICTURE…", nargs=-1, required=True)
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Classes a picture.")
@click.option("--consistent", is_flag=True, help="No parent is less probable than its child.")
@click.option("--json", "json_file", metavar="FILE", help="Write a JSON object a picture; - for here.")
@click.option("--parquet", metavar="FILE", help="Write a row a picture.")
@click.option("--html", metavar="FILE", help="Write a page of pictures with what is seen in them.")
@_batch(64)
@DEVICE
@PLUGIN
def predict(
    run: str,
    pictures: tuple[str, ...],
    top: int,
    consistent: bool,
    json_file: str | None,
    parquet: str | None,
    html: str | None,
    batch: int,
    device: str,
) -> None:
    """What a student sees in pictures: files, folders, patterns or URLs (any fsspec protocol).

    ARM: which student of the run. Default: the one with the highest mpvap.
    """
    from kcframe.cli.predict import predict_pictures

    predict_pictures(run, pictures, top, consistent, batch, device, json_file, parquet, html)


@cli.command()
@STUDENT
@click.argument("data", metavar="DATA")
@SET
@click.option(
    "--shots", default="1,5", show_default=True, metavar="N,…", help="Pictures a class to learn from."
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Draws of them.")
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@_batch(256)
@DEVICE
@JSON
@PLUGIN
def probe(
    run: str,
    data: str,
    overrides: tuple[str, ...],
    shots: str,
    repeats: int,
    seed: int,
    batch: int,
    device: str,
    json_file: str | None,
) -> None:
    """How good a student's features are for a task that it was not trained for.

    DATA: a recipe, whose data section is used, or a folder (any URL) with a folder of pictures a class. A
    linear classifier and nearest class means, beside the specialists' features and an untrained backbone's.
    """
    from kcframe.cli.probe import probe_student

    counts = _numbers(shots, "--shots", "1,5,20")
    probe_student(run, data, overrides, counts, repeats, seed, batch, device, json_file)


@cli.command()
@STUDENT
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: for other machines, too.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any.")
@_batch(32)
@click.option("--max-mb", default=10.0, show_default=True, type=SOME, help="Largest file that is taken.")
@click.option("--max-seconds", default=10.0, show_default=True, type=SOME, help="For one answer.")
@click.option(
    "--max-waiting", default=128, show_default=True, type=click.IntRange(1), help="Requests at a time."
)
@DEVICE
@PLUGIN
def serve(
    run: str,
    host: str,
    port: int,
    batch: int,
    max_mb: float,
    max_seconds: float,
    max_waiting: int,
    device: str,
) -> None:
    """Answer over HTTP: POST /predict, a page to drop a picture on, /healthz and /metrics."""
    from kcframe.cli.serve import serve_student

    serve_student(run, host, port, batch, max_mb, max_seconds, max_waiting, device)


@cli.command()
@STUDENT
@click.option(
    "--to", default="onnx", show_default=True, type=click.Choice(["onnx", "torch.export", "safetensors"])
)
@click.option("--out", metavar="FILE", help="Default: beside the student's weights, in the run directory.")
@click.option("--top-k", type=click.IntRange(1), metavar="K", help="Give K classes, not all logits.")
@click.option("--licence", metavar="TEXT", help="Of the weights, for the model card.")
@PLUGIN
def export(run: str, to: str, out: str | None, top_k: int | None, licence: str | None) -> None:
    """Write a student as a file for another runtime, with its classes, its transform and a model card."""
    from kcframe.cli.export import export_student

    export_student(run, to, out, top_k, licence)


@cli.command()
@STUDENT
@click.argument("data", metavar="[DATA]", required=False)
@SET
@click.option("--split", type=click.Choice(["train", "test"]), help="Of a recipe's data. Default: test.")
@_batch(256)
@DEVICE
@JSON
@click.option("--html", metavar="FILE", help="Write a page with figures, too.")
@PLUGIN
def evaluate(
    run: str,
    data: str | None,
    overrides: tuple[str, ...],
    split: str | None,
    batch: int,
    device: str,
    json_file: str | None,
    html: str | None,
) -> None:
    """Measure a run's students and specialists on other pictures, or on the run's own test pictures again.

    DATA: a recipe, whose data section is used, or a folder (any URL) with a folder of pictures a class.
    Default: the run's own recipe, whose data must be there. Without ARM all students are measured.
    """
    from kcframe.cli.evaluate import evaluate_run

    evaluate_run(run, data, split, overrides, batch, device, json_file, html)


ADDRESS = click.option(
    "--address",
    required=True,
    envvar="RAY_API_SERVER_ADDRESS",
    metavar="URL",
    help="The cluster's dashboard, e.g. http://head:8265; else $RAY_API_SERVER_ADDRESS.",
)


@cli.command()
@RECIPE
@SET
@PLUGIN
@ADDRESS
@click.option(
    "--run-dir", required=True, metavar="URL", help="Where the run is kept: the cluster must reach it."
)
@click.option("--wait/--no-wait", default=True, help="Show what it prints until it ends. Default: wait.")
def submit(recipe: str, overrides: tuple[str, ...], address: str, run_dir: str, wait: bool) -> None:
    """Run a recipe on a cluster as a Ray job, which goes on when this machine goes home."""
    from kcframe.cli.submit import submit_recipe

    submit_recipe(recipe, overrides, address, run_dir, wait)


@cli.group()
def job() -> None:
    """Follow or stop what `kcframe submit` started."""


@job.command()
@click.argument("job_id", metavar="JOB")
@ADDRESS
def logs(job_id: str, address: str) -> None:
    """Show what a job prints until it ends."""
    from kcframe.cli.submit import follow_job

    follow_job(address, job_id)


@job.command()
@click.argument("job_id", metavar="JOB")
@ADDRESS
def stop(job_id: str, address: str) -> None:
    """Stop a job; what it has done is kept."""
    from kcframe.cli.submit import stop_job

    stop_job(address, job_id)


@cli.group()
def bench() -> None:
    """Measure what things cost on this machine."""


ROUNDS = click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each way."
)
DTYPE = click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"])
)


@bench.command()
@click.option(
    "--backend",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="local: what teachers cost a step, routed and not; ray: a step on a Ray worker against one here.",
)
@ROUNDS
@click.option("--steps", type=click.IntRange(2), help="Steps a turn. Default: 4 (local), 400 (ray).")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Images (local).")
@click.option("--teachers", default=8, show_default=True, type=click.IntRange(1), help="(local)")
@click.option("--image-size", default=64, show_default=True, type=click.IntRange(32), help="(local)")
@DEVICE
@DTYPE
@JSON
def step(
    backend: str,
    rounds: int,
    steps: int | None,
    batch: int,
    teachers: int,
    image_size: int,
    device: str,
    dtype: str,
    json_file: str | None,
) -> None:
    """A whole training step: what teachers cost it, or (--backend ray) what Ray does."""
    if backend == "ray":
        from kcframe.cli.bench.overhead import bench_overhead

        bench_overhead(rounds, steps or 400, json_file)
        return
    from kcframe.cli.bench.step import bench_step

    bench_step(rounds, steps or 4, batch, teachers, image_size, device, dtype, json_file)


def _count(name: str, default: int, help: str):
    return click.option(name, default=default, show_default=True, type=click.IntRange(1), help=help)


@bench.command()
@_count("--classes", 100_000, "N.")
@_count("--verticals", 20, "M, of uneven sizes.")
@_count("--features", 1024, "D, of the backbone.")
@_count("--s1", 4096, "Units of the first layer.")
@_count("--s2", 512, "Units of the second layer.")
@_count("--kept", 100, "K.")
@_count("--batch", 256, "Images a step.")
@click.option("--expander", default="fc-sc", show_default=True, metavar="NAME", help="Any with s1 and s2.")
@DEVICE
@DTYPE
@_count("--rounds", 7, "Turns of each way.")
@click.option(
    "--trained",
    default=60,
    show_default=True,
    type=click.IntRange(0),
    help="Steps of training before the gradient filter is measured; 0: leave it out.",
)
@click.option("--filter", "filter_error", default=1e-3, show_default=True, help="train.gradient_filter.")
@click.option("--scaling", is_flag=True, help="Also: time and memory for N from 12,500 to 200,000.")
@click.option("--optimizers", is_flag=True, help="Also: a step of AdamW, in each of torch's ways.")
@JSON
def head(
    rounds: int,
    trained: int,
    filter_error: float,
    scaling: bool,
    optimizers: bool,
    json_file: str | None,
    device: str,
    dtype: str,
    **sizes,
) -> None:
    """A step of head, pacing and objective, over its bare matrix products and the dense way."""
    # Before torch comes in: its profiler, which counts the memory, tells of itself on the terminal.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from kcframe.cli.bench.head import bench_head, sizes_from

    wanted = sizes_from(device, dtype, sizes)
    bench_head(wanted, rounds, trained, filter_error, scaling, optimizers, json_file)


@bench.command()
@click.argument("recipe", metavar="[RECIPE]", required=False)
@SET
@PLUGIN
@click.option(
    "--workers", default="0,1,2", show_default=True, metavar="N,…", help="Numbers of loading processes."
)
@click.option("--batches", default=20, show_default=True, type=click.IntRange(1), help="Batches a turn.")
@ROUNDS
@click.option("--ray-data", is_flag=True, help="Compare with Ray Data.")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="URL",
    help="Without RECIPE: where the made-up files are written, read as files, from a tar shard and from "
    "Parquet, and deleted again; several are compared.",
)
@JSON
def data(
    recipe: str | None,
    overrides: tuple[str, ...],
    workers: str,
    batches: int,
    rounds: int,
    ray_data: bool,
    places: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Pictures a second, loaded and augmented, from a recipe's data source; or from made-up JPEG files."""
    from kcframe.cli.bench.data import bench_data

    numbers = _numbers(workers, "--workers", "0,2,4", least=0)
    if places and (recipe or ray_data):
        raise click.UsageError("--at is for made-up files: leave RECIPE and --ray-data out")
    bench_data(recipe, overrides, numbers, batches, rounds, ray_data, json_file, places)


@bench.command()
@_count("--rows", 9_000_000, "Labels in the made-up table.")
@_count("--labels-per-image", 3, "Of them.")
@JSON
def labels(rows: int, labels_per_image: int, json_file: str | None) -> None:
    """How long a run waits for Open Images' labels, and the memory they take: first, and from the cache."""
    from kcframe.cli.bench.labels import bench_labels

    bench_labels(rows, labels_per_image, json_file)


@bench.command("serve")
@STUDENT
@_count("--clients", 16, "Clients, each sending one picture after the other.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1), help="A turn.")
@_count("--rounds", 3, "Turns of each way.")
@_batch(32)
@DEVICE
@JSON
def bench_served(
    run: str, clients: int, seconds: float, rounds: int, batch: int, device: str, json_file: str | None
) -> None:
    """Latency and pictures a second of `kcframe serve` under load, with batching and without."""
    from kcframe.cli.bench.serve import bench_serve

    bench_serve(run, clients, seconds, rounds, batch, device, json_file)


def _numbers(given: str, option: str, example: str, least: int = 1) -> list[int]:
    try:
        numbers = [int(number) for number in given.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        hint = f"'{given}': write numbers of {least} or more, e.g. {example}"
        raise click.BadParameter(hint, param_hint=option)
    return numbers


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
        # The reader went away (kcframe … | head): nothing is left to say.
        sys.stderr.close()
        sys.exit(141)
