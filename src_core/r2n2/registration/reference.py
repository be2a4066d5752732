"""Which frame the others are aligned to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r2n2.errors import ArgumentError
from r2n2.mask import NO_MASKS, Masks
from r2n2.registration.survey import Survey, survey_series
from r2n2.series import ImageSeries

__all__ = ["automatic_reference", "chosen_reference", "common_reference", "resolve_reference", "usual_frame"]


def usual_frame(survey: Survey) -> int:
    """The frame whose mean intensity is nearest the mean of the series: a proxy for the mean state of breathing.

    Where the contrast of the series changes, a mean intensity says nothing of breathing, and a frame in which tissues look alike is
    of no use: the one whose structures agree best with those of the others is taken.

    Raises
    ------
    ArgumentError
        If no frame can serve.
    """
    if survey.contrast.changes and survey.contrast.most_alike is not None:
        return survey.contrast.most_alike
    if np.isnan(survey.means).all():
        raise ArgumentError(f"reference: {survey.unusable}, so there is nothing to align; check the series")
    return int(np.nanargmin(np.abs(survey.means - np.nanmean(survey.means))))


def common_reference(surveys: Sequence[Survey]) -> int:
    """The one frame that is nearest the usual in several series of the same motion, such as slice positions, taken together.

    Each mean intensity counts relative to its own series, so that no bright one decides alone. Where the contrast of any of them
    changes, it is the frame whose structures agree best with those of the others, over all of them.

    Parameters
    ----------
    surveys
        Of the same number of frames.

    Raises
    ------
    ArgumentError
        If no frame can serve.
    """
    if any(survey.contrast.changes for survey in surveys):
        agreements = [survey.contrast.agreement for survey in surveys]
        shared = set(agreements[0]).intersection(*agreements)
        if shared:
            return max(sorted(shared), key=lambda frame: sum(agreement[frame] for agreement in agreements))
    shares = np.array([_shares(survey) for survey in surveys])
    usual = shares.mean(axis=0)  # NaN where a frame cannot serve in one of them
    if np.isnan(usual).all():
        return usual_frame(surveys[0])
    return int(np.nanargmin(np.abs(usual - np.nanmean(usual))))


def _shares(survey: Survey) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    middle = np.nanmean(survey.means) if np.isfinite(survey.means).any() else np.nan
    return survey.means / middle if middle else survey.means


def chosen_reference(reference: int | str, survey: Survey | None, frames: int) -> int:
    """The reference's index in a series of so many frames: as given, or the ``usual_frame`` of its survey for "auto".

    Raises
    ------
    ArgumentError
        If the series has no such frame, or none can serve.
    """
    if isinstance(reference, str):
        assert survey is not None
        return usual_frame(survey)
    if not 0 <= reference < frames:
        raise ArgumentError(f"reference: frame {reference} does not exist; the series has frames 0 to {frames - 1}")
    return reference


def automatic_reference(series: ImageSeries, masks: Masks = NO_MASKS) -> int:
    """The ``usual_frame`` of a series, which is looked at for this alone.

    Raises
    ------
    ArgumentError
        If no frame can serve.
    """
    return usual_frame(survey_series(series, masks))


def resolve_reference(series: ImageSeries, reference: int | str, masks: Masks = NO_MASKS) -> int:
    """The same of a series that was not looked at before.

    Raises
    ------
    ArgumentError
        As ``chosen_reference``.
    """
    survey = survey_series(series, masks) if isinstance(reference, str) else None
    return chosen_reference(reference, survey, len(series))
