"""What two images are compared by while one is aligned to the other: the measures of similarity."""

from r2n2.registration.measures.base import Compared, Difference, Measure, gradient_of
from r2n2.registration.measures.ssd import SquaredDifference

__all__ = ["Compared", "Difference", "Measure", "SquaredDifference", "gradient_of"]
