"""The schema of recipes. Every field has bounds and a line of help; unknown names are errors.

The options of plugins are a plain mapping here. `load` checks them against the plugin's own schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import category

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)


def _of_a_folder(name: str) -> str:
    if set("/\\:") & set(name) or name[0].isspace():
        raise ValueError(r"a name has no / \ or : in it, and does not begin with a space")
    if name in (".", "..") or any(category(character) == "Cc" for character in name):
        raise ValueError("becomes the name of a folder: it is not . or .. and has no control characters")
    return name


def _of_a_package(text: str) -> str:
    """pip takes options, such as another index, wherever it takes a package."""
    try:
        Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"is no requirement as pip reads it, such as kcframe-x==1.2 ({reason})") from None
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_of_a_folder)]


class Section(BaseModel):
    """A part of a recipe: immutable; rejects unknown names and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PluginRef(Section):
    """A plugin by its registered name, with its own options."""

    name: str = Field(description="as `kcframe plugins` lists it")
    options: dict[str, Any] = Field(default_factory=dict, description="the plugin's own options")
    line: str = Field(
        "", exclude=True, repr=False
    )  # where the recipe names the plugin, for errors; not written to recipe.yaml

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PluginRef):
            return False
        return (self.name, self.options) == (other.name, other.options)

    __hash__ = None  # type: ignore[assignment]  # its options are a dict


class Train(Section):
    """How one network is trained. One step is one optimizer step."""

    epochs: int = Field(ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(
        ge=1,
        le=1_000_000,
        description="most images a step, over all workers together; steps are equally large",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="torch's AdamW or SGD")
    learning_rate: float = Field(gt=0, le=1000, description="at its highest")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum, AdamW's first beta")
    weight_decay: float = Field(0.0, ge=0, le=10, description="on matrices; never on biases, norms or pace")
    backbone_learning_rate_scale: float = Field(
        1.0, ge=0, le=1000, description="the backbone's learning rate over that of the head; 0: it stays"
    )
    backbone_weight_decay: float | None = Field(
        None, ge=0, le=10, description="on the backbone's matrices; null: as on the head's"
    )
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after the warm-up")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps in which the rate rises from 0")
    clip_gradient_norm: float | None = Field(None, gt=0, description="largest norm of the whole gradient")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 runs under autocast")
    gradient_filter: Literal["off"] | Annotated[float, Field(gt=0, le=0.5)] = Field(
        "off",
        description="images whose gradient hardly counts are left out of a block's backward products, up to "
        "this relative error of the block's weight gradient, e.g. 1e-3",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, warmed up as min(ema, (1 + t) / (10 + t)): "
        "its figures and weights are what the run gives. null: off",
    )
    log_every: int = Field(10, ge=1, description="steps between lines in the metrics")
    evaluate_every: int = Field(1, ge=0, description="epochs between evaluations; 0: only at the end")
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints, beside the one after every epoch"
    )

    def evaluates_after(self, epoch: int) -> bool:
        """Whether the network is measured after an epoch, counted from 1."""
        return epoch == self.epochs or (bool(self.evaluate_every) and epoch % self.evaluate_every == 0)


class Classifier(Section):
    """The last layer of the head: one matrix [N_v, hidden] per vertical."""

    bias: bool = Field(True, description="one bias a class; the paper's parameter counts have none")
    init_bias: float | Literal["base-rate"] = Field(
        "base-rate",
        description="where biases start, unless pacing says; base-rate: -ln(N - 1), so each class at 1/N",
    )


class Specialists(Section):
    """One network per vertical, trained on that vertical's images alone (eq. 1)."""

    backbone: PluginRef
    train: Train


class StudentSpec(Section):
    """One student: its network, its targets, and its training."""

    backbone: PluginRef
    expander: PluginRef
    classifier: Classifier = Classifier()
    pacing: PluginRef = PluginRef(name="none")
    objective: PluginRef
    teachers: tuple[PluginRef, ...] = (PluginRef(name="specialists"),)
    train: Train


class TeacherCache(Section):
    """A cache of the teachers' outputs, for all arms and later runs with the same teachers and pictures.

    Targets are the same as from live teachers, except for the rounding of logits to float16.
    """

    url: str = Field(
        min_length=1,
        description="folder that keeps it; any fsspec URL, on a cluster one that all machines reach",
    )
    k: int | None = Field(
        None, ge=1, description="outputs kept of a teacher, an image; null: as many as the arms learn from"
    )
    fill: bool = Field(
        True, description="false: what is not there, or was made of something else, is an error"
    )

    @field_validator("url")
    @classmethod
    def _from_anywhere(cls, url: str) -> str:
        # A path is made absolute: processes of a cluster have other working directories.
        return url if "://" in url else str(Path(url).expanduser().absolute())


class Evaluation(Section):
    """The split on which networks are evaluated."""

    split: Literal["test", "validation"] = Field(
        "test", description="validation: images cut off the training images, which nobody then trains on"
    )
    share: float = Field(0.1, gt=0, lt=0.9, description="of the training images, for split: validation")


class Distribution(Section):
    """The values that a search tries for one field: from low to high, or a list."""

    low: float | None = None
    high: float | None = None
    log: bool = Field(False, description="whether to draw the logarithm evenly")
    integer: bool = Field(False, description="whole numbers only")
    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="these values, instead of a range")

    @model_validator(mode="after")
    def _one_of_two(self) -> Distribution:
        if (self.choice is None) == (self.low is None or self.high is None):
            raise ValueError("needs either low and high, or choice")
        if self.choice is None:
            low, high = self.range()
            if not low < high:
                raise ValueError(f"low {low:g} is not below high {high:g}")
            if self.log and low <= 0:
                raise ValueError(f"log needs a low above 0, not {low:g}")
        return self

    def range(self) -> tuple[float, float]:
        """(low, high), where there is no choice."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def examples(self) -> tuple[Any, ...]:
        """Values that must be valid for the recipe to be valid: the ends of the range, or all choices."""
        if self.choice is not None:
            return self.choice
        low, high = self.range()
        return (int(low), int(high)) if self.integer else (low, high)


class Search(Section):
    """The fields that `kcframe tune` varies, and how. The metric is mpvap on the validation split."""

    arm: str | None = Field(None, description="the arm whose fields are varied; null: the last one")
    fields: dict[str, Distribution] = Field(min_length=1, description="e.g. pacing.options.init")
    trials: int = Field(20, ge=1, le=100_000, description="how many to try; a grid tries all its points")
    searcher: Literal["random", "grid", "optuna"] = Field("random", description="optuna: pip install optuna")
    stop_early: bool = Field(True, description="stop the worse half of the trials now and then (ASHA)")
    parallel: int | None = Field(
        None, ge=1, description="most trials at once; null: what the cluster has room for"
    )

    @model_validator(mode="after")
    def _grid_has_choices(self) -> Search:
        ranges = [name for name, d in self.fields.items() if d.choice is None]
        if self.searcher == "grid" and ranges:
            raise ValueError(f"a grid needs a choice for every field, {ranges[0]} has a range")
        return self


class Execution(Section):
    """Where and how the run is executed. These fields do not decide the results: but for rounding
    they are the same, except that `images_per_pass` gives batch statistics and dropout smaller batches."""

    backend: Literal["local", "ray"] = Field("local", description="local: in this process; ray: on a cluster")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one")
    loader_workers: int = Field(
        0, ge=0, le=256, description="processes that load pictures ahead, a training worker; 0: none"
    )
    address: str | None = Field(
        None, description="the Ray cluster's, e.g. auto or ray://host:10001; null: $RAY_ADDRESS, or start one"
    )
    workers: int = Field(1, ge=1, le=10_000, description="that train one student together")
    min_workers: int | None = Field(None, ge=1, description="with max_workers: as many as there is room for")
    max_workers: int | None = Field(None, ge=1, le=10_000)
    specialist_workers: int = Field(1, ge=1, le=10_000, description="that train one specialist together")
    resources_per_worker: dict[str, float] = Field(
        default_factory=dict,
        description="Ray's names, e.g. {CPU: 4, GPU: 1}; {}: 1 CPU, and 1 GPU if there are",
    )
    storage: str | None = Field(
        None,
        description="path or URL where Ray Train keeps its own state while it runs; null: the run directory",
    )
    packages: tuple[Annotated[str, AfterValidator(_of_a_package)], ...] = Field(
        (), description="plugins that a cluster installs for a submitted job, pinned, e.g. kcframe-x==1.2"
    )
    images_per_pass: int | None = Field(
        None,
        ge=1,
        description="most images that a worker takes through the network at once; a larger batch goes in "
        "several passes whose gradients add up. null: all of a step's at once",
    )
    max_failures: int = Field(3, ge=0, description="how often a stage may lose a worker and go on")

    @model_validator(mode="after")
    def _elastic(self) -> Execution:
        if (self.min_workers is None) != (self.max_workers is None):
            raise ValueError("min_workers and max_workers come together")
        if "object_store_memory" in self.resources_per_worker:
            raise ValueError("resources_per_worker: Ray gives no object_store_memory to workers; say memory")
        least, most = self.min_workers, self.max_workers
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_workers {self.min_workers} is more than max_workers {self.max_workers}")
        return self


class Recipe(Section):
    """A whole recipe, with every arm written out in full."""

    kcframe: Literal[1] = Field(description="version of the recipe format")
    name: Name
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**31)
    data: PluginRef
    specialists: Specialists | None = Field(None, description="left out: no specialists are trained")
    arms: dict[Name, StudentSpec] = Field(min_length=1)
    baseline: str | None = Field(None, description="the arm that gap closed is measured from")
    evaluation: Evaluation = Evaluation()
    teacher_cache: TeacherCache | None = Field(
        None, description="where to keep what teachers say; left out: each arm asks them anew"
    )
    search: Search | None = Field(None, description="only `kcframe tune` reads it")
    callbacks: tuple[PluginRef, ...] = Field((), description="trackers and the like: told what stages do")
    execution: Execution = Execution()

    @field_validator("arms")
    @classmethod
    def _distinct_folders(cls, arms: dict[str, StudentSpec]) -> dict[str, StudentSpec]:
        # Arms become folders, and some file systems do not tell A from a.
        lower: dict[str, str] = {}
        for name in arms:
            if (other := lower.setdefault(name.casefold(), name)) != name:
                raise ValueError(f"arms '{other}' and '{name}' differ only in case: rename one")
        return arms
