"""What two images are compared by while one is aligned to the other: the measures of similarity."""

from r2n2.registration.measures.agreement import agreement, left_where_longest
from r2n2.registration.measures.base import Compared, Difference, Measure, gradient_of, scored
from r2n2.registration.measures.curve import IntensityCurve
from r2n2.registration.measures.lncc import LocalCorrelation
from r2n2.registration.measures.mind import SelfSimilarity
from r2n2.registration.measures.ngf import GradientField
from r2n2.registration.measures.ssd import SquaredDifference

__all__ = [
    "Compared",
    "Difference",
    "GradientField",
    "IntensityCurve",
    "LocalCorrelation",
    "Measure",
    "SelfSimilarity",
    "SquaredDifference",
    "agreement",
    "gradient_of",
    "left_where_longest",
    "measure_of",
    "scored",
]

_ALL = (SquaredDifference, LocalCorrelation, SelfSimilarity, GradientField, IntensityCurve)


def measure_of(name: str, *, clamp: float = 3.0) -> Measure:
    """The measure of a name of ``RegistrationConfig.similarity``, at its settings.

    Parameters
    ----------
    clamp
        Largest absolute z-score of intensities.
    """
    known = {kind.name: kind for kind in _ALL}
    if name not in known:
        raise ValueError(f"similarity: {name!r} is not known; choose among {', '.join(known)}")
    return known[name](clamp=clamp)
