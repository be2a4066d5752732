"""Settings: defaults of the paper, strictness, messages that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from r2n2.config import BSplineConfig, Config, FitConfig, NetworkConfig, RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.simulation import ThoraxConfig
from r2n2.training.settings import TrainingConfig


def test_the_papers_numbers_are_the_defaults() -> None:
    network, spline, registration = NetworkConfig(), BSplineConfig(), RegistrationConfig()
    assert network.channels == (32, 64, 128, 256)
    assert (network.sigma_max, network.working_size, network.keep_probability) == (0.3, 256, 0.5)
    assert network.least_squares_sizes == ()
    assert (spline.control_points, spline.iterations, spline.learning_rate, spline.regularisation) == (34, 250, 1e-3, 0.01)
    assert (registration.steps, registration.reference) == (25, "auto")


def test_the_default_is_the_shipped_network_refined() -> None:
    config = RegistrationConfig()
    assert (config.method, config.weights, config.refine) == ("r2n2", "general", True)
    assert config.fit.refine_steps == (3, 24)


def _keys(model: type[Config], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            keys.extend(_keys(field.annotation, (*prefix, name)))
        else:
            keys.append((*prefix, name))
    return keys


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", _keys(RegistrationConfig), ids=".".join)
def test_a_slip_of_the_pen_in_any_key_is_an_error_that_names_the_right_one(path: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError, match="unknown setting") as caught:
        RegistrationConfig.parse(_nested((*path[:-1], path[-1] + "x"), 1))
    assert f"did you mean {path[-1]!r}?" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", _keys(RegistrationConfig), ids=".".join)
def test_a_wrong_type_under_any_key_is_an_error_that_names_it(path: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError) as caught:
        RegistrationConfig.parse(_nested(path, {"no": "such"}))
    assert str(caught.value).startswith(".".join(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: .*greater than or equal to 1, got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"method": "elastix"}, "method: .*'r2n2', 'fit' or 'bspline', got 'elastix'"),
        ({"reference": "first"}, "reference"),
        ({"network": {"working_size": 100}}, r"network\.working_size: .*multiple of 8"),
        ({"network": {"sigma_max": 0}}, r"network\.sigma_max"),
        ({"network": {"channels": [1, 2, 3]}}, r"network\.channels"),
        ({"fit": {"regularisation": -0.1}}, r"fit\.regularisation"),
        ({"fit": {"regularisation": float("nan")}}, r"fit\.regularisation"),
        ({"fit": {"clamp": float("inf")}}, r"fit\.clamp: .*finite"),
        ({"fit": {"refine_steps": [0, 0]}}, "fit: .*refine_steps must be two numbers from 0 to 200, not both 0"),
        ({"fit": {"refine_steps": [4, -1]}}, "fit: .*refine_steps must be two numbers"),
        ({"fit": {"refine_steps": [4]}}, r"fit\.refine_steps\.1"),
        ({"bspline": {"learning_rate": float("inf")}}, r"bspline\.learning_rate: .*finite"),
        ({"bspline": {"control_points": 3}}, r"bspline\.control_points"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_says_what_came(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        RegistrationConfig.parse(values)


def _allowed(model: type[Config], path: tuple[str, ...], value: Any) -> bool:
    """Whether a plain value is of a type that the setting takes."""
    for part in path[:-1]:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    text = str(model.model_fields[path[-1]].annotation)
    return {bool: "bool" in text, str: text == "<class 'str'>" or text.startswith("str |") or "Path" in text}[type(value)]


@pytest.mark.parametrize("value", [True, "yes", "3", "true"])
@pytest.mark.parametrize("model", [RegistrationConfig, TrainingConfig, ThoraxConfig])
def test_a_truth_value_or_a_text_is_no_number_and_a_text_no_truth_value(model: type[Config], value: Any) -> None:
    for path in _keys(model):
        if _allowed(model, path, value):
            continue
        with pytest.raises(ArgumentError) as caught:
            model.parse(_nested(path, value))
        assert str(caught.value).startswith(".".join(path)), path


@pytest.mark.parametrize("key", ["steps", "updates", "working_size"])
def test_a_slip_in_a_list_of_tables_is_named(key: str) -> None:
    stage = {"updates": 1, "working_size": 256, "steps": 2}
    stage[key + "x"] = stage.pop(key)
    with pytest.raises(ArgumentError, match=rf"unknown setting 'stages\.0\.{key}x': did you mean '{key}'\?"):
        TrainingConfig.parse({"stages": [stage]})


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ArgumentError, match=r"steps: .*; .*'fit\.regularization': did you mean 'regularisation'"):
        RegistrationConfig.parse({"steps": -1, "fit": {"regularization": 0.1}})


def test_a_key_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match="known settings: control_points, iterations, learning_rate, regularisation"):
        RegistrationConfig.parse({"bspline": {"qqqq": 1}})


class _Inner(Config):
    depth: int = 1


class _Middle(Config):
    inner: _Inner = _Inner()


class _Outer(Config):
    middle: _Middle = _Middle()


def test_a_slip_deep_inside_is_named_with_its_place() -> None:
    with pytest.raises(ArgumentError, match=r"unknown setting 'middle\.inner\.deptth': did you mean 'depth'"):
        _Outer.parse({"middle": {"inner": {"deptth": 2}}})


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RegistrationConfig().steps = 3  # type: ignore[misc]


def test_settings_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "é.toml"
    file.write_text('method = "bspline"\nreference = 3\n[fit]\nclamp = 3.0\n[network]\nchannels = [2, 3, 4, 6]\n', encoding="utf-8")
    assert RegistrationConfig.from_toml(file) == RegistrationConfig(
        method="bspline", reference=3, fit=FitConfig(clamp=3.0), network=NetworkConfig(channels=(2, 3, 4, 6))
    )


@pytest.mark.parametrize("content", [b"method = ", b"\xff\xfe", b"[fit"])
def test_what_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ArgumentError, match=r"broken\.toml: not a TOML file"):
        RegistrationConfig.from_toml(file)


def test_a_wrong_value_is_named_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("steps = true\n")
    with pytest.raises(ArgumentError, match=r"my\.toml: steps: .*valid integer, got True"):
        RegistrationConfig.from_toml(file)


def test_what_is_nested_without_end_is_named(tmp_path: Path) -> None:
    file = tmp_path / "deep.toml"
    file.write_text("a=" + "[" * 50_000 + "]" * 50_000)
    with pytest.raises(ReadError, match=r"deep\.toml: its values are nested deeper"):
        RegistrationConfig.from_toml(file)
    with pytest.raises(ArgumentError, match="cannot be read"):
        RegistrationConfig.from_toml(tmp_path)


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(ArgumentError) as caught:
        RegistrationConfig.parse({"steps": "x" * 10_000})
    assert len(str(caught.value)) < 300


def test_settings_survive_json() -> None:
    config = RegistrationConfig(method="bspline", reference=2, fit=FitConfig(clamp=1.5))
    assert RegistrationConfig.model_validate_json(config.model_dump_json()) == config


def test_every_setting_is_explained() -> None:
    for model in (NetworkConfig, FitConfig, BSplineConfig, RegistrationConfig):
        fields = {
            n: f for n, f in model.model_fields.items() if not (isinstance(f.annotation, type) and issubclass(f.annotation, Config))
        }
        assert all(field.description for field in fields.values()), [n for n, f in fields.items() if not f.description]


def test_amplitudes_are_solved_again_by_least_squares_only() -> None:
    with pytest.raises(ValueError, match="name least_squares_sizes"):
        NetworkConfig(orthogonal=True)
    assert NetworkConfig(orthogonal=True, least_squares_sizes=(32,)).orthogonal


def test_a_word_or_a_number_is_asked_for_at_once() -> None:
    with pytest.raises(ArgumentError) as error:
        RegistrationConfig.parse({"steps": 0, "batch_size": "many"})
    assert str(error.value) == (
        "steps: Input should be 'auto' or greater than or equal to 1, got 0; "
        "batch_size: Input should be 'auto' or a valid integer, got 'many'"
    )
    assert RegistrationConfig.parse({"steps": "auto"}).steps == "auto"


def test_steps_given_for_frames_count_for_volumes_unless_said() -> None:
    assert RegistrationConfig.parse({}).of_grid(3).steps == 100
    assert RegistrationConfig.parse({"steps": 12}).of_grid(3).steps == 12
    assert RegistrationConfig.parse({"steps": 12}).of_grid(2).steps == 12
    assert RegistrationConfig.parse({"steps": 12, "volume_steps": 40}).of_grid(3).steps == 40
