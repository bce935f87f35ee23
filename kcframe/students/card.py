"""The model card of an exported student in Markdown, from its run directory.

See Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kcframe
from kcframe.assembly.arms import resolve_arm
from kcframe.engine.model import count_parameters
from kcframe.recipe.schema import StudentSpec
from kcframe.report.table import COLUMNS, cell
from kcframe.storage.layout import DATA, RECIPE, RESULTS

if TYPE_CHECKING:
    from kcframe.students.load import Classifier

MAX_VERTICALS = 100


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    files: that were written. difference: largest absolute difference of the file's outputs to PyTorch's; None
    if no runtime for the file is installed. compared_on: the pictures of this comparison, in words. compared:
    "logits" or "probabilities". agrees: whether the difference is only rounding.
    """

    files: tuple[str, ...]
    difference: float | None
    compared_on: str
    compared: str
    agrees: bool


def model_card(
    classifier: Classifier, exported: Exported, to: str, about: dict[str, Any], licence: str | None
) -> str:
    """The card as Markdown. licence: of the weights, from their owner; kcframe does not know it."""
    taxonomy, transform = classifier.taxonomy, classifier.transform
    student = classifier.about["student"]
    parts = [f"# {_name(classifier)}: {classifier.arm}", ""]
    parts += [
        f"An image classifier of {taxonomy.num_classes:,} classes in {taxonomy.num_verticals} verticals with "
        f"{count_parameters(classifier.student):,} parameters: a student of Knowledge Concentration "
        f"(Gao et al. 2017), trained and exported ({to}) by kcframe {kcframe.__version__}.",
        "",
        f"- **Licence:** {licence or 'not stated'}",
        f"- **Network:** backbone {student['backbone']['name']}, expander {student['expander']['name']}, "
        f"pacing {student['pacing']['name']}",
        f"- **Learned with:** {student['objective']['name']}; teachers: {_teachers(classifier)}",
        f"- **Data:** {_data(classifier)}",
        "",
        "## Use",
        "",
        f"Input `images`: float32 [B, {transform.channels}, {transform.image_size}, {transform.image_size}] "
        f"in 0..1, {_transform(classifier)}. Mean and standard deviation are taken care of inside.",
        "",
    ]
    parts += [f"Output `{name}`: {meaning}." for name, meaning in about["outputs"].items()]
    parts += ["", f"Class names, verticals and parents: `{exported.files[1].rpartition('/')[2]}`.", ""]
    parts += _figures(classifier)
    parts += ["## Export", "", _compared(exported), ""]
    return "\n".join(parts)


def _name(classifier: Classifier) -> str:
    results = _read(classifier, RESULTS)
    return results["name"] if results else "A student"


def _read(classifier: Classifier, name: str) -> Any:
    run_dir = classifier.run_dir
    return run_dir.read_json(name) if run_dir is not None and run_dir.exists(name) else None


def _teachers(classifier: Classifier) -> str:
    spec = StudentSpec.model_validate(classifier.about["student"])
    return ", ".join(source.name for source in resolve_arm(classifier.arm, spec).sources) or "none"


def _data(classifier: Classifier) -> str:
    run_dir, facts = classifier.run_dir, _read(classifier, DATA)
    if run_dir is None or facts is None or not run_dir.exists(RECIPE):
        return "not known"
    import yaml

    source = yaml.safe_load(run_dir.read(RECIPE))["data"]["name"]
    images = ", ".join(f"{count:,} {split}" for split, count in facts["images"].items())
    return f"source `{source}`, pictures: {images}"


def _transform(classifier: Classifier) -> str:
    transform = classifier.transform
    if transform.fit == "crop":
        words = f"the middle square of {100 * transform.share:.4g} percent of the short side"
    else:
        words = "the whole picture, made square by more of its border"
    if transform.ground == "dark":
        words += ", inverted if its border is light"
    return f"{words}, resized with {transform.interpolation} interpolation"


def _figures(classifier: Classifier) -> list[str]:
    results = _read(classifier, RESULTS)
    if results is None or classifier.arm not in results["arms"]:
        return []
    row, teachers = results["arms"][classifier.arm], results["specialists"]
    shown = {classifier.arm: row} | ({"specialists": teachers} if teachers else {})
    lines = ["## Figures", "", f"On the {results['split']} split, in percent.", ""]
    lines += ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, figures in shown.items():
        lines.append(f"| {name} | " + " | ".join(cell(c, [figures.get(c)]) for c in COLUMNS) + " |")
    lines += ["", "| vertical | images | average precision |", "|---|---|---|"]
    for name, vertical_figures in list(row["per_vertical"].items())[:MAX_VERTICALS]:
        lines.append(f"| {name} | {vertical_figures['images']:,} | {cell('ap', [vertical_figures['ap']])} |")
    return [*lines, ""]


def _compared(exported: Exported) -> str:
    if exported.difference is None:
        return "Not compared with PyTorch: no runtime was installed where it was exported."
    same = "which is rounding" if exported.agrees else "which is NOT rounding: do not use it"
    difference = f"largest difference of {exported.compared} {exported.difference:.1e}, {same}"
    return f"Compared with PyTorch on {exported.compared_on}: {difference}."
