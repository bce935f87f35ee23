"""What a run starts from, written into its directory, and compared with what an earlier start wrote."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import yaml

from kcframe.errors import RunDirError
from kcframe.interfaces.data import DataSource
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.storage import layout
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

PACKAGES = (
    "kcframe",
    "torch",
    "torchvision",
    "ray",
    "numpy",
    "pillow",
    "fonttools",
    "matplotlib",
    "safetensors",
)


def write_provenance(recipe: Recipe, source: DataSource, run_dir: RunDir, say: Callable[[str], None]) -> None:
    """Write recipe, versions, taxonomy and facts about the data.

    say: is told which packages have changed since the run began. RunDirError if its taxonomy has.
    """
    _refuse_other_taxonomy(source.taxonomy, run_dir)
    _compare_versions(run_dir, say)
    plain = recipe.model_dump(mode="json")
    run_dir.write(layout.RECIPE, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    run_dir.write(layout.TAXONOMY, source.taxonomy.to_json())
    splits = {name: len(source.split(name)) for name in ("train", "test")}
    run_dir.write_json(layout.DATA, {"images": splits, **source.describe()})


def _refuse_other_taxonomy(taxonomy: Taxonomy, run_dir: RunDir) -> None:
    if not run_dir.exists(layout.TAXONOMY):
        return
    before = Taxonomy.from_json(run_dir.read(layout.TAXONOMY).decode())
    if before != taxonomy:
        raise RunDirError(
            f"{run_dir}: was begun with other data ({before.num_classes} classes in "
            f"{before.num_verticals} verticals, now {taxonomy.num_classes} in {taxonomy.num_verticals}, "
            "or other names): give another --run-dir"
        )


def _compare_versions(run_dir: RunDir, say: Callable[[str], None]) -> None:
    now = versions()
    if not run_dir.exists(layout.VERSIONS):
        run_dir.write_json(layout.VERSIONS, now)
        return
    before = run_dir.read_json(layout.VERSIONS)
    for package in sorted(set(before) | set(now)):
        was, is_now = (known.get(package, "not installed") for known in (before, now))
        if was != is_now:
            say(f"note: {package} was {was} when this run began, now {is_now}")


def versions() -> dict[str, str]:
    """Python, packages and plugin distributions with their versions."""
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package | installed().versions()
