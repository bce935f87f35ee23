"""Collects the results of all stages of a run in one table."""

from __future__ import annotations

from typing import Any

from kcframe.recipe.schema import Recipe
from kcframe.storage.layout import RESULT, arm_folder, specialist_folder
from kcframe.storage.run_dir import RunDir

FIGURES = ("mpvap", "top1", "top5", "routed_mpvap", "routed_top1")
OF_VERTICAL = {"mpvap": "ap", "routed_mpvap": "routed_ap"}


def gap_closed(arm: float | None, baseline: float | None, specialists: float | None) -> float | None:
    """Gap closed: percent of the way from the baseline to the specialists.

    None if a figure is missing, or if the specialists are not better than the baseline.
    """
    if arm is None or baseline is None or specialists is None or specialists <= baseline:
        return None
    return 100.0 * (arm - baseline) / (specialists - baseline)


def collect(recipe: Recipe, run_dir: RunDir, verticals: tuple[str, ...]) -> dict[str, Any]:
    """The content of results.json: all figures of a finished run. Percentages are 0-100; null: no value."""
    arms = {name: run_dir.read_json(f"{arm_folder(name)}/{RESULT}") for name in recipe.arms}
    specialists = None
    if recipe.specialists is not None:
        specialists = united([run_dir.read_json(f"{specialist_folder(v)}/{RESULT}") for v in verticals])
    baseline = arms[recipe.baseline]["mpvap"] if recipe.baseline else None
    top = specialists["mpvap"] if specialists else None
    table = {}
    for name, result in arms.items():
        table[name] = {
            **{figure: result[figure] for figure in FIGURES},
            "parameters": result["parameters"],
            "gap_closed": gap_closed(result["mpvap"], baseline, top),
            "steps": result["steps"],
            "per_vertical": result["per_vertical"],
            **apart(result["per_vertical"]),
        }
    routed = sum(result["images_routed"] for result in arms.values())
    teacher_images = sum(result["teacher_images"] for result in arms.values())
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "split": recipe.evaluation.split,
        "baseline": recipe.baseline,
        "arms": table,
        "specialists": specialists,
        "teacher_images_per_image": teacher_images / routed if routed else None,
    }


def united(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all specialists together, each on its own vertical's images, and their parameters."""
    per_vertical = {name: row for result in results for name, row in result["per_vertical"].items()}
    united: dict[str, Any] = {}
    for figure in FIGURES:
        key = OF_VERTICAL.get(figure, figure)
        values = [row[key] for row in per_vertical.values() if row[key] is not None]
        united[figure] = sum(values) / len(values) if values else None
    united["parameters"] = sum(result["parameters"] for result in results)
    united["per_vertical"] = per_vertical
    return united | apart(per_vertical)


def apart(per_vertical: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """{'apart': name -> mpvap} for the subsets of `ImageSet.told_apart`; empty if there are none."""
    names = dict.fromkeys(name for row in per_vertical.values() for name in row.get("apart", ()))
    means = {}
    for name in names:
        values = [row.get("apart", {}).get(name, {}).get("ap") for row in per_vertical.values()]
        numbers = [value for value in values if value is not None]
        means[name] = sum(numbers) / len(numbers) if numbers else None
    return {"apart": means} if means else {}
