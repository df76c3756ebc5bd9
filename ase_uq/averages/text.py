"""An average with its two error bars, as text: `323.4 ± 1.1 (sampling) ± 2.7 (model) K`.

The smaller bar that is not zero sets the last digit: it keeps two significant digits, and everything else is rounded to
the same place. Where the two bars are so unequal that this would print noise, the larger one keeps four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

_DIGITS_OF_SMALLER = 2
_DIGITS_OF_LARGER = 4
_DIGITS_WITHOUT_BARS = 6
# Outside these powers of ten a number is read faster with its exponent taken out.
_SMALLEST_PLAIN_EXPONENT = -4
_LARGEST_PLAIN_EXPONENT = 6


@dataclass(frozen=True, slots=True)
class RoundedResult:
    """A result rounded for print.

    Attributes
    ----------
    mean, std_sampling, std_model
        The three numbers as text, in units of 10^`exponent`.
    decimals
        Decimal places of the three; negative when they are rounded to tens, hundreds and so on.
    exponent
        Power of ten taken out of the three numbers, 0 for plain notation.
    """

    mean: str
    std_sampling: str
    std_model: str
    decimals: int
    exponent: int

    def text(self, unit: str | None = None) -> str:
        """Return one line, as `format_result` does."""
        bars = f"± {self.std_sampling} (sampling) ± {self.std_model} (model)"
        number = f"{self.mean} {bars}"
        if self.exponent:
            number = f"({number}) × 10^{self.exponent}"
        return f"{number} {unit}" if unit else number


class Averaged(Protocol):
    """What is printed of an average: the fields that the results of `reweight` and of `OnlineReweighter` share."""

    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def std_sampling(self) -> float: ...  # noqa: D102
    @property
    def std_model(self) -> float: ...  # noqa: D102
    @property
    def std_model_naive(self) -> float: ...  # noqa: D102
    @property
    def noise(self) -> float: ...  # noqa: D102


class HasInterval(Protocol):
    """What has an interval at any level."""

    def interval(self, level: float = ...) -> tuple[float, float]: ...  # noqa: D102


def model_unresolved(average: Averaged) -> Any:
    """Whether the spread between members is no more than sampling noise makes it, so that it is an upper bound only.

    A bool, or an array of them for the average of a vector.
    """
    naive = average.std_model_naive
    return (naive > 0) & (naive**2 <= 2.0 * average.noise)


def model_error(average: Averaged) -> tuple[Any, Any]:
    """Model error of an average, and whether it is an upper bound only: then it is the spread as it is, noise included.

    Two numbers, or two arrays for the average of a vector.
    """
    bound = model_unresolved(average)
    # Without a branch, so that numbers and arrays go the same way; the bound is the larger of the two.
    return average.std_model + bound * (average.std_model_naive - average.std_model), bound


def round_average(average: Averaged) -> RoundedResult:
    """Round an average; a model error that cannot be told from sampling noise becomes the bound it is."""
    model, bound = model_error(average)
    return round_result(average.mean, average.std_sampling, model, model_is_bound=bool(bound))


def format_interval(average: HasInterval, unit: str | None = None, *, level: float = 0.95) -> str:
    """Write what a standard deviation does not say: the interval that holds the true average, for so few members.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> average = SimpleNamespace(std_total=0.01, interval=lambda level: (1.0123, 1.0456))
    >>> format_interval(average, "Å")
    '95 % interval 1.012 to 1.046 Å'
    """
    low, high = average.interval(level)
    width = high - low
    if not math.isfinite(width) or width <= 0:
        return ""
    decimals = _places_for(width, _DIGITS_OF_SMALLER)
    ends = f"{format_fixed(low, decimals)} to {format_fixed(high, decimals)}"
    return f"{100 * level:g} % interval {ends}{f' {unit}' if unit else ''}"


def format_result(
    mean: float, std_sampling: float, std_model: float, unit: str | None = None, *, model_is_bound: bool = False
) -> str:
    """Write an average with its sampling and its model error on one line.

    Parameters
    ----------
    mean, std_sampling, std_model
        The average and its two standard errors, all in `unit`. A bar that is NaN is printed as `unknown`.
    unit
        Appended when given and not empty.
    model_is_bound
        Print the model error as an upper bound, for a spread that cannot be told from sampling noise.

    Examples
    --------
    >>> format_result(323.4213, 1.1083, 2.6517, "K")
    '323.4 ± 1.1 (sampling) ± 2.7 (model) K'
    >>> format_result(1.01234e-6, 2.2e-8, 0.0, "Å")
    '(1.012 ± 0.022 (sampling) ± 0 (model)) × 10^-6 Å'
    """
    return round_result(mean, std_sampling, std_model, model_is_bound=model_is_bound).text(unit)


def round_result(mean: float, std_sampling: float, std_model: float, *, model_is_bound: bool = False) -> RoundedResult:
    """Round an average and its two bars to the same decimal place.

    Examples
    --------
    >>> round_result(123456.0, 1234.0, 0.0).mean
    '123500'
    >>> round_result(5.0, 0.1, 0.3, model_is_bound=True).std_model
    '<0.30'
    """
    bars = [bar for bar in (std_sampling, std_model) if math.isfinite(bar) and bar > 0]
    exponent = _common_exponent([mean, *bars])
    scale = 10.0**-exponent
    decimals = _decimal_places(mean * scale, [bar * scale for bar in bars])
    model = _format_bar(std_model * scale, decimals)
    return RoundedResult(
        mean=format_fixed(mean * scale, decimals),
        std_sampling=_format_bar(std_sampling * scale, decimals),
        std_model=f"<{model}" if model_is_bound and math.isfinite(std_model) and model[0] != "<" else model,
        decimals=decimals,
        exponent=exponent,
    )


def format_fixed(value: float, decimals: int) -> str:
    """Write a number with so many decimal places; negative places round to tens, hundreds and so on.

    Examples
    --------
    >>> format_fixed(-0.004, 2), format_fixed(1283.0, -2), format_fixed(float("nan"), 1)
    ('0.00', '1300', 'unknown')
    """
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    # Adding 0.0 turns a negative zero into zero, which would otherwise be printed with its sign.
    return f"{round(value, decimals) + 0.0:.{max(decimals, 0)}f}"


def format_significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, in plain notation unless it is very large or small.

    Examples
    --------
    >>> format_significant(0.012345), format_significant(1999.6), format_significant(2.5e-7, 2)
    ('0.0123', '2000', '2.5e-07')
    """
    if not math.isfinite(value) or value == 0:
        return format_fixed(value, 0)
    exponent = _exponent(value)
    if not _SMALLEST_PLAIN_EXPONENT <= exponent <= _LARGEST_PLAIN_EXPONENT:
        return f"{value:.{digits - 1}e}"
    return format_fixed(value, max(digits - 1 - exponent, 0))


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _common_exponent(values: list[float]) -> int:
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest == 0:
        return 0
    exponent = _exponent(largest)
    return 0 if _SMALLEST_PLAIN_EXPONENT <= exponent <= _LARGEST_PLAIN_EXPONENT else exponent


def _decimal_places(mean: float, bars: list[float]) -> int:
    if not bars:
        known = math.isfinite(mean) and mean != 0
        return _DIGITS_WITHOUT_BARS - 1 - _exponent(mean) if known else 0
    by_smaller = _places_for(min(bars), _DIGITS_OF_SMALLER)
    return min(by_smaller, _places_for(max(bars), _DIGITS_OF_LARGER))


def _places_for(bar: float, digits: int) -> int:
    # 0.0996 rounds up to 0.10: the place is taken after rounding, else it would print as 0.100, with a digit too many.
    rounded = float(f"{bar:.{digits - 1}e}")
    return digits - 1 - _exponent(rounded)


def _format_bar(bar: float, decimals: int) -> str:
    if bar == 0:
        return "0"
    text = format_fixed(bar, decimals)
    if math.isfinite(bar) and float(text) == 0:
        return f"<{format_fixed(10.0**-decimals, decimals)}"
    return text
