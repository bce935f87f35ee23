"""Describes the results of a run in sentences."""

from __future__ import annotations

from kcframe.report.record import Arm, Record

MANY_CONSTANT = 25.0  # percent of units with a constant output, from which on there is a warning
ON_THE_FLOOR = 1.05  # loss / lowest possible loss at this gamma, below which there is a warning
CONFUSIONS = 5


def findings(record: Record) -> list[str]:
    """First the best arm, then warnings."""
    sentences = [_best(record)]
    hardest = _hardest(record)
    if hardest:
        sentences.append(hardest)
    for arm in record.arms:
        sentences += _warnings(arm)
    passes = record.results["teacher_images_per_image"]
    if passes is not None:
        sentences.append(
            f"The teachers ran {passes:.2f} forward passes for each image that the students learned from."
        )
    return sentences


def _best(record: Record) -> str:
    best, base, top = record.best, record.baseline, record.teachers_level("mpvap")
    if best.figures["mpvap"] is None:
        return "No vertical has a test image, so nothing could be measured."
    rank = f"is best of {len(record.arms)} arms:" if len(record.arms) > 1 else "reaches"
    text = f"{best.name} {rank} {best.figures['mpvap']:.1f} mpvap"
    if base is not None and base is not best and base.figures["mpvap"] is not None:
        text += f", the baseline {base.name} reaches {base.figures['mpvap']:.1f}"
    if top is not None:
        text += f", the specialists {top:.1f}"
    closed = best.figures["gap_closed"]
    if closed is not None and base is not best:
        text += f". It closes {closed:.0f} percent of the gap between them"
    size = best.figures["parameters"] / 1e6
    text += f". It has {size:.2f}M parameters"
    if record.results["specialists"] is not None:
        together = record.results["specialists"]["parameters"] / 1e6
        text += f", the specialists {together:.2f}M together"
    return text + "."


def _hardest(record: Record) -> str | None:
    aps = {
        name: row["ap"] for name, row in record.best.figures["per_vertical"].items() if row["ap"] is not None
    }
    if len(aps) < 2:
        return None
    worst = min(aps, key=aps.__getitem__)
    level = record.teachers_level("ap", worst)
    expert = "" if level is None else f" (its specialist: {level:.1f})"
    return f"{worst} is the vertical that {record.best.name} knows least: {aps[worst]:.1f}{expert}."


def _warnings(arm: Arm) -> list[str]:
    sentences = []
    constant, rank = arm.result.get("constant_units"), arm.result.get("effective_rank")
    if constant is not None and constant >= MANY_CONSTANT:
        varied = "" if rank is None else f"; what is left varies in about {rank:.1f} directions"
        sentences.append(
            f"{arm.name}: {constant:.0f} percent of its shared units give the same value for every "
            f"image{varied}. It has lost the features that a classifier could stand on."
        )
    last = next((line for line in reversed(arm.lines) if line["kind"] == "step" and line.get("floor")), None)
    if last is not None and last["loss"] < ON_THE_FLOOR * sum(last["floor"]):
        sentences.append(
            f"{arm.name}: its loss ends at {last['loss']:.1f} where its gammas allow no less than "
            f"{sum(last['floor']):.1f}: it has learned how rare every class is, and nothing more."
        )
    return sentences


def confusions(arm: Arm, verticals: tuple[str, ...]) -> list[str]:
    """The most frequent confusions of verticals, as shares of the images of the true vertical."""
    shares = []
    for name, row in zip(verticals, arm.result["confusion"], strict=True):
        total = sum(row)
        for other, count in zip(verticals, row, strict=True):
            if other != name and count:
                shares.append((count / total, count, name, other))
    shares.sort(key=lambda share: (-share[0], share[2], share[3]))
    return [
        f"{100 * share:.1f} percent of {name} ({count} images) are taken for {other}"
        for share, count, name, other in shares[:CONFUSIONS]
    ]
