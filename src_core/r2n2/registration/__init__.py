"""Registration of pairs and of series: three methods behind one protocol, every long operation a generator of progress."""

from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.batch import unregistered
from r2n2.registration.batch_size import resolve_batch_size
from r2n2.registration.bspline import BSplineMethod
from r2n2.registration.fit import FitMethod
from r2n2.registration.methods import build_method, resolve_device
from r2n2.registration.reference import automatic_reference, chosen_reference, common_reference, resolve_reference
from r2n2.registration.refitting import refit_around, refit_frame
from r2n2.registration.resampling import sample_pixels, warp_frame, warp_pixels
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress, Uncertainty
from r2n2.registration.series import edited_result, register_pair, register_series
from r2n2.registration.survey import Survey, survey_for, survey_series

__all__ = [
    "BSplineMethod",
    "FitMethod",
    "FrameResult",
    "FrameStatus",
    "Method",
    "Pairs",
    "RegistrationStep",
    "SeriesProgress",
    "Survey",
    "Uncertainty",
    "automatic_reference",
    "build_method",
    "chosen_reference",
    "common_reference",
    "edited_result",
    "refit_around",
    "refit_frame",
    "register_pair",
    "register_series",
    "resolve_batch_size",
    "resolve_device",
    "resolve_reference",
    "sample_pixels",
    "survey_for",
    "survey_series",
    "unregistered",
    "warp_frame",
    "warp_pixels",
]
