"""Settings as strict, frozen models: an unknown key, a wrong type or a value out of range is an error, never ignored."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from r2n2.errors import ArgumentError, ReadError

__all__ = [
    "SMALLEST_SIDE_PX",
    "BSplineConfig",
    "Config",
    "FitConfig",
    "InitialName",
    "MethodName",
    "NetworkConfig",
    "Precision",
    "RegistrationConfig",
    "SimilarityName",
    "StoppingConfig",
    "Uncertainty",
    "VolumeFitConfig",
]

MethodName = Literal["r2n2", "fit", "bspline"]
InitialName = Literal["auto", "none", "translation", "rigid", "affine"]
Precision = Literal["float32", "bfloat16"]
Uncertainty = Literal["on", "off", "full"]
SimilarityName = Literal["ssd", "lncc", "mind", "ngf", "curve"]

_LONGEST_SHOWN = 120
# What a reference may be called after the target that it goes with, and the frame in whose place that is.
_SHORT_REFERENCES: dict[str, int | str] = {"mean": "auto", "previous": 0}
SMALLEST_SIDE_PX = 16
"""Frames with a shorter side are refused: they hold too little to align."""


class Config(BaseModel):
    """Base of every settings model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Build from plain values, each of the very type that is asked for: ``true`` or ``"3"`` is no number.

        Raises
        ------
        ArgumentError
            Naming every wrong key with what was expected, and the nearest known key for an unknown one.
        """
        try:
            # As JSON, which knows lists and texts only: strictness then is about numbers, truth values and texts.
            return cls.model_validate_json(json.dumps(values, default=_plain), strict=True)
        except ValidationError as error:
            raise ArgumentError("; ".join(_explain(cls, problem) for problem in _joined(error.errors()))) from None

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises
        ------
        ArgumentError
            If the file is no TOML, cannot be read or a value is wrong.
        ReadError
            If its values are nested deeper than any settings.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise ReadError(f"{path}: its values are nested deeper than any settings; correct it and try again") from None
        except OSError as error:
            raise ArgumentError(f"{path}: cannot be read ({error.strerror}); give a TOML file of settings") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ArgumentError(f"{path}: not a TOML file ({error}); correct it and try again") from None
        try:
            return cls.parse(values)
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from None

    def to_toml(self) -> str:
        """The settings as TOML, from which ``from_toml`` gives an equal model; what is None is left out."""
        # Here, as a machine that is only lent to train has no more than torch, numpy, pydantic and safetensors.
        import tomli_w

        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _joined(problems: Sequence[Any]) -> list[dict[str, Any]]:
    """Problems of which a value that may be a word or a number has one each, told as one of the value."""
    joined: list[dict[str, Any]] = []
    for problem in map(dict, problems):
        last, before = "".join(map(str, problem["loc"][-1:])), joined[-1] if joined else None
        if before is not None and last.startswith("literal[") and before["loc"][:-1] == problem["loc"][:-1]:
            before["loc"] = problem["loc"][:-1]
            before["msg"] = f"{problem['msg']} or {before['msg'].removeprefix('Input should be ')}"
        else:
            joined.append(problem)
    return joined


def _explain(model: type[BaseModel], problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = _settings_at(model, problem["loc"][:-1])
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known settings: {', '.join(known)}"
        return f"unknown setting {'.'.join(place)!r}: {hint}"
    given = repr(problem["input"])
    return f"{'.'.join(place)}: {problem['msg']}, got {given if len(given) <= _LONGEST_SHOWN else given[:_LONGEST_SHOWN] + '...'}"


def _settings_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """Names of the settings in a table, by the keys and numbers that lead to it."""
    found: Any = model
    for part in place:
        if isinstance(part, str) and part in getattr(found, "model_fields", {}):
            found = found.model_fields[part].annotation
        # Lists of tables and tables that may be missing: what they hold.
        inner = [kind for kind in get_args(found) if hasattr(kind, "model_fields")]
        found = inner[0] if inner else found
    return list(getattr(found, "model_fields", {}))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else str(value)


class NetworkConfig(Config):
    """Architecture of the network; the defaults are the paper's."""

    channels: tuple[int, int, int, int] = (32, 64, 128, 256)
    """Feature maps after the first convolution and after each of the three levels."""
    sigma_max: float = Field(default=0.3, gt=0, le=2)
    """Largest standard deviation of a Gaussian, normalised (equation 18)."""
    sigma_min: float = Field(default=0.0, ge=0)
    """Smallest standard deviation; 0 as in the paper, where a very narrow Gaussian can make a loss infinite."""
    amplitude_scale: float = Field(default=1.0, gt=0, le=1)
    """Largest component of an amplitude, normalised; 1 as in the paper. With less, the first steps of a training are small."""
    working_size: int = Field(default=256, ge=32, le=2048, multiple_of=8)
    """Side in pixels of the square that the network sees."""
    keep_probability: float = Field(default=0.5, gt=0, le=1)
    """p of the multiplicative Gaussian noise N(1, sqrt((1 - p) / p)), in training only."""
    least_squares_sizes: tuple[int, ...] = ()
    """Sides in pixels of the squares on which the images are compared by least squares: the network is then a learnt matching
    pursuit, which sees by how much Gaussians of some widths would help at every place, places one, shapes it, and has its
    amplitude solved for. Empty: the paper's network, which gives all by itself."""
    orthogonal: bool = False
    """Solve the amplitudes of all Gaussians so far again with every new one, as orthogonal matching pursuit does; for a matching
    pursuit only."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, values: Any) -> Any:
        """Settings in files of weights and results from before ``least_squares_sizes`` had its name."""
        if not isinstance(values, dict):
            return values
        # What has passed through here is no longer taken for JSON, in which a strict model expects lists.
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if "evidence_sizes" in values and "least_squares_sizes" not in values:
            values["least_squares_sizes"] = values.pop("evidence_sizes")
        if values.get("force_channels") is False:
            del values["force_channels"]
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(not 16 <= size <= 1024 for size in self.least_squares_sizes):
            raise ValueError(f"least_squares_sizes must each be 16 to 1024, got {self.least_squares_sizes}")
        if self.orthogonal and not self.least_squares_sizes:
            raise ValueError("orthogonal solves amplitudes by least squares: name least_squares_sizes, or leave it off")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, {self.sigma_max:g}, got {self.sigma_min:g}")
        return self


class FitConfig(Config):
    """Gaussians fitted to a pair, coarse to fine."""

    regularisation: float = Field(default=0.005, ge=0)
    """Weight of the diffusion of the displacement (mean squared gradient) against the mean squared difference."""
    sizes: tuple[int, int, int] = (32, 96, 256)
    """Sides in pixels of the working squares: of the first Gaussians, of the others, of the last steps."""
    coarse_share: float = Field(default=0.4, gt=0, le=1)
    """Share of the Gaussians placed on the coarsest square."""
    rounds: int = Field(default=2, ge=1, le=50)
    """Rounds in which the other Gaussians are added."""
    steps_a_round: int = Field(default=3, ge=1, le=200)
    """Steps of all Gaussians together after each round; twice as many after the first ones on the coarsest square."""
    final_steps: int = Field(default=14, ge=1, le=200)
    """Steps on the finest square."""
    refine_rounds: int = Field(default=2, ge=1, le=50)
    """Rounds in which the Gaussians that a start lacks are added."""
    refine_steps: tuple[int, int] = (3, 24)
    """Steps on the second and on the finest square where there is a start, such as the network's Gaussians."""
    far: float = Field(default=0.04, ge=0)
    """Objective on the coarsest square above which a pair is still far from aligned, after the first Gaussians or with a start."""
    far_steps: int = Field(default=30, ge=0, le=200)
    """Steps on the coarsest square that only such pairs take."""
    proposed_sigmas: tuple[float, ...] = (0.3, 0.17, 0.1)
    """Standard deviations with which a Gaussian may start, normalised."""
    sigma_range: tuple[float, float] = (0.04, 0.6)
    """Smallest and largest standard deviation, normalised."""
    folding_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean squared shortfall of the Jacobian determinant below ``smallest_jacobian``."""
    smallest_jacobian: float = Field(default=0.2, ge=0, lt=1)
    """Jacobian determinant from which on folding is feared."""
    folding_size: int = Field(default=48, ge=16, le=512)
    """Side in points of the lattice on which folding is measured."""
    steepness_weight: float = Field(default=0.0, ge=0)
    """Weight of the squared excess of single Gaussians' steepness |S^-1/2 v| over ``steepness_cap``, summed, on all squares but the
    finest; 0.001 where brightness changes much and nothing moves."""
    steepness_cap: float = Field(default=0.0, ge=0)
    """Steepness from which on a Gaussian is held back; at 1.65 it folds alone."""
    brightness: float = Field(default=1.0, ge=0, le=1)
    """Share of the residual's local mean that is taken for a smooth change of brightness and no motion, where intensities are
    compared (ssd), on all squares but the coarsest; 0 where tissue keeps its brightness."""
    brightness_window: float = Field(default=0.24, gt=0, le=2)
    """Standard deviation of the Gaussian window of those means, normalised."""
    trust: bool = True
    """Whether, in the last steps, pixels of the reference count less that stay unexplained in all aligned frames of a series, where
    intensities are compared (ssd) with the reference itself."""
    trust_steps: int = Field(default=8, ge=1, le=200)
    """How many of the steps on the finest square these are."""
    trust_frames: int = Field(default=5, ge=2)
    """Frames beside the reference from which on a series can tell."""
    trust_window_px: float = Field(default=1.0, ge=0, le=20)
    """Standard deviation of the Gaussian window over which what is left is averaged, in pixels of the finest square."""
    most_gaussians: int = Field(default=60, ge=1, le=500)
    """Of a pair where ``steps`` is auto."""
    most_coarse: int = Field(default=10, ge=1, le=500)
    """Of them on the coarsest square."""
    added_at_once: int = Field(default=5, ge=1, le=100)
    """Gaussians that are added in a round where ``steps`` is auto."""
    worth: float = Field(default=0.2, gt=0)
    """Where ``steps`` is auto: how many times what Schwarz's criterion asks of their numbers Gaussians have to promise."""
    growing_steepness_weight: float = Field(default=0.0005, ge=0)
    """``steepness_weight`` where ``steps`` is auto, if that is larger: of many Gaussians more are left over to run away."""
    unfolding_weight: float = Field(default=10.0, ge=1)
    """How many times dearer folding is made for frames that fold where ``no_folding`` is asked for."""
    unfolding_steps: int = Field(default=10, ge=0, le=200)
    """Steps that such frames then take on the finest square."""
    guided_gaussians: int = Field(default=7, ge=1, le=100)
    """Gaussians that guiding pairs may add to a frame."""
    guided_left_out: int = Field(default=6, ge=0, le=100)
    """Gaussians that each guiding pair may take out, where the frame is better off without them."""
    guided_regularisation: float = Field(default=10.0, gt=0)
    """How many times ``regularisation`` counts for such a frame: where the images are wrong, what is smooth is likely."""
    guided_steps: tuple[int, int, int] = (6, 6, 10)
    """Steps on the coarsest, the second and the finest square that such a frame then takes."""
    outlier: float = Field(default=1.0, gt=0)
    """Difference of z-scored intensities from which on a pixel counts less and less."""
    clamp: float = Field(default=3.0, gt=0)
    """z-scored intensities are clamped to plus and minus this."""
    pixels_a_step: int = Field(default=4096, ge=256)
    """Pixels of the working square from which a step takes the curvature; slope and result are of all of them."""
    longest_step_px: float = Field(default=2.0, gt=0)
    """Largest change of an amplitude in one step, in pixels of the working square."""
    field_size: int = Field(default=96, ge=16, le=2048)
    """Largest side in points of the lattice on which a step's displacement is summed; larger squares interpolate it."""
    regulariser_size: int = Field(default=24, ge=8, le=256)
    """Side in points of the lattice on which the diffusion is measured."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.sigma_range
        if not 0 < low < high:
            raise ValueError("sigma_range must be a smaller and a larger positive number")
        if not self.proposed_sigmas or min(self.proposed_sigmas) <= 0:
            raise ValueError("proposed_sigmas must hold at least one positive number")
        if not 16 <= self.sizes[0] <= self.sizes[1] <= self.sizes[2]:
            raise ValueError("sizes must not fall and be at least 16")
        if not all(0 <= steps <= 200 for steps in self.refine_steps) or not any(self.refine_steps):
            raise ValueError("refine_steps must be two numbers from 0 to 200, not both 0")
        if not all(1 <= steps <= 200 for steps in self.guided_steps):
            raise ValueError("guided_steps must be three numbers from 1 to 200")
        return self


class VolumeFitConfig(FitConfig):
    """Gaussians fitted to a pair of volumes.

    Sides are those of the longest axis: along the others lattices have as many points as their length asks for, and along none
    more than there are voxels.
    """

    sizes: tuple[int, int, int] = (24, 48, 96)
    sigma_range: tuple[float, float] = (0.05, 0.6)
    proposed_flatness: float = Field(default=3.0, ge=1, le=10)
    """How many times thinner along one axis Gaussians may start, too, as along surfaces where tissue slides; 1: none do,
    nor where ``volume_steps`` is auto."""
    far: float = Field(default=0.0, ge=0)
    steps_a_round: int = Field(default=6, ge=1, le=200)
    folding_size: int = Field(default=32, ge=16, le=512)
    field_size: int = Field(default=56, ge=16, le=2048)
    pixels_a_step: int = Field(default=8192, ge=256)
    brightness: float = Field(default=0.0, ge=0, le=1)
    trust: bool = False
    most_gaussians: int = Field(default=200, ge=1, le=500)
    most_coarse: int = Field(default=40, ge=1, le=500)
    added_at_once: int = Field(default=20, ge=1, le=100)


class StoppingConfig(Config):
    """When a frame takes no more steps of the network: once several in a row changed neither displacement nor similarity."""

    displacement: float = Field(default=0.004, ge=0)
    """A step changes the displacement where its amplitude is more than this, NORMALISED: half a pixel of 256."""
    improvement: float = Field(default=0.02, ge=0)
    """A step changes the similarity where it lowers the mean squared difference by more than this share of it."""
    patience: int = Field(default=3, ge=1)
    """Steps in a row that must change nothing."""


class BSplineConfig(Config):
    """The paper's baseline (section 4)."""

    control_points: int = Field(default=34, ge=4, le=512)
    """Control points along the longer side on the finest level of a 2D frame."""
    iterations: int = Field(default=250, ge=1)
    """Iterations on each of the three levels (1/4, 1/2, 1)."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step of Adam with AMSGrad."""
    regularisation: float = Field(default=0.01, ge=0)
    """Weight of the isotropic total variation."""
    loss: Literal["measure", "mi", "ssim"] = "measure"
    """What is minimised: the mean squared difference of the features of ``similarity``, minus the mutual information, or 1 -
    structural similarity."""
    volume_control_points: int = Field(default=20, ge=4, le=256)
    """``control_points`` of volumes, along the longest axis."""
    volume_size: int = Field(default=96, ge=16, le=512)
    """Points along the longest axis of the lattice on which volumes are compared on the finest level, at most one a voxel."""


class RegistrationConfig(Config):
    """How a series is registered."""

    method: MethodName = "r2n2"
    """r2n2: the network, for 2D frames; fit: Gaussians fitted to each pair; bspline: the paper's baseline."""
    refine: bool = True
    """Refine the network's Gaussians by some steps of fit; only for r2n2."""
    similarity: SimilarityName | Literal["auto"] = "auto"
    """What frames are compared by. ssd: intensities; lncc: intensities, locally normalised; mind: self-similarity; ngf: directions
    of edges; curve: intensities through the curve that fits best. auto: ssd, for volumes lncc, or ngf where the contrast of the
    series changes. The network compares intensities, so under another measure than ssd the Gaussians are fitted without it."""
    reference: int | Literal["auto"] = "auto"
    """Frame that all others are aligned to (0-based); auto: mean intensity nearest the mean of the series, or, where the contrast
    of the series changes, the frame whose edges agree best with those of the others. Where settings are given as text, mean stands
    for auto with target mean, previous for frame 0 with target previous."""
    target: Annotated[str, Field(pattern=r"^(reference|mean|median|previous|pca:([1-9]|1[0-9]|20))$")] = "reference"
    """What frames are registered to. reference: the reference frame; previous: each frame to its neighbour on the side of the
    reference, the displacements then composed. Or an image in the place of the reference, made of the aligned series: mean and
    median: over time; pca:L: for each frame the mean of the series and its own part along the first L principal components over
    time, for contrast that changes along a series."""
    target_rounds: int = Field(default=2, ge=1, le=10)
    """How often a target is made of the frames as they are aligned by then, and all are registered to it anew."""
    initial: InitialName = "auto"
    """Motion of the frame as a whole that is found before the method begins; auto: a translation, where that makes the frames far
    more alike than none, otherwise none."""
    weights: str = "general"
    """Name of shipped weights or path of a safetensors file; only for r2n2."""
    steps: Annotated[int, Field(ge=1, le=500)] | Literal["auto"] = 25
    """Number of Gaussians in a sequence of a 2D frame, each of seven numbers; auto: as many as each frame needs, at most
    ``fit.most_gaussians``, for fit and for r2n2 with refinement, whose network then gives its share of 25."""
    volume_steps: Annotated[int, Field(ge=1, le=500)] | Literal["auto"] = 100
    """The same of a volume, each of twelve numbers; ``steps`` says it too where it is given and this is not. auto: at most
    ``volume_fit.most_gaussians``."""
    network_share: float = Field(default=0.8, gt=0, le=1)
    """Share of the Gaussians that the network gives where fit refines them; fit adds the others where they help most."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Frames registered at once; auto: as many as fit, at most 16 on the processor and 64 on CUDA."""
    warm_start: bool = False
    """Start each frame from the result of its neighbour in time instead of from no displacement."""
    precision: Precision | Literal["auto"] = "auto"
    """Of the network's convolutions; auto: what this machine was measured to be quicker with, remembered from then on."""
    stop_early: bool = True
    """Whether a frame takes no more steps of the network once several in a row changed nothing; otherwise all frames take all."""
    no_folding: bool = False
    """Whether every displacement is changed, where it folds, until it provably does not."""
    guide_strength_mm: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """To within which distance guiding pairs are right, as a standard deviation in mm; auto: the longer side of a pixel."""
    uncertainty: Uncertainty = "on"
    """Whether each frame gets a map of how far its result may be off; full: each is also registered back, for twice the time."""
    fields: Annotated[float, Field(gt=0)] | Literal["auto", "full", "none"] = "auto"
    """Which displacement fields are written beside the Gaussians, which always are. full: of every pixel; a number: of points so
    many mm apart; none; auto: full for 2D frames, 4 mm for volumes."""
    network: NetworkConfig = NetworkConfig()
    stopping: StoppingConfig = StoppingConfig()
    fit: FitConfig = FitConfig()
    volume_fit: VolumeFitConfig = VolumeFitConfig()
    bspline: BSplineConfig = BSplineConfig()

    def of_grid(self, ndim: int) -> Self:
        """The settings as they hold for frames of so many axes: of volumes ``fit`` and ``steps`` are those of volumes.

        The network is for 2D frames: of volumes the Gaussians are fitted without it.
        """
        if ndim == 2:
            return self
        method = "fit" if self.method == "r2n2" else self.method
        return self.model_copy(update={"method": method, "steps": self.volume_steps, "fit": self.volume_fit})

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """As of any settings; the reference may also be "mean" or "previous", short for a target and where it is used.

        Raises
        ------
        ArgumentError
            As of any settings, or if another target is named beside them.
        """
        short = values.get("reference")
        if isinstance(short, str) and short in _SHORT_REFERENCES:
            if values.get("target", short) != short:
                raise ArgumentError(
                    f"target: reference {short} means target {short}, got {values['target']!r}; leave one of them out"
                )
            values = {**values, "reference": _SHORT_REFERENCES[short], "target": short}
        parsed = super().parse(values)
        if "steps" in values and "volume_steps" not in values:
            parsed = parsed.model_copy(update={"volume_steps": parsed.steps})
        return parsed

    @property
    def estimates_uncertainty(self) -> bool:
        """Whether each frame gets a map: none does where displacements are composed, whose errors add up in unknown ways."""
        return self.uncertainty != "off" and self.target != "previous"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target == "previous" and self.warm_start:
            raise ValueError(
                "warm_start starts from a neighbour's displacement from the reference: leave it out with target previous"
            )
        if self.target == "previous" and self.uncertainty == "full":
            raise ValueError("uncertainty full: nothing is known of composed displacements; leave it out with target previous")
        if self.steps == "auto" and self.method == "r2n2" and not self.refine:
            raise ValueError("steps auto needs fit to add Gaussians: refine, choose method fit, or give a number")
        return self
