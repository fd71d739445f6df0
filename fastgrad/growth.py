"""From log gradient norms to an answer: explode, vanish or stay, how fast, how far number formats reach.

Signs and units: natural logarithms (nats) throughout; a positive rate means that gradients grow on their
way from the loss towards the input; distances count layers or steps from the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

__all__ = ["FORMATS", "Format", "Growth", "Limit", "growth"]

Verdict = Literal["exploding", "vanishing", "stable"]
Field = tuple[Any, ...]  # (names of dimensions, array, …)


class Format(NamedTuple):
    """The range of a binary floating-point format, as natural logarithms.

    ``log_max`` is the largest finite number. ``log_min`` is half the smallest subnormal: at and below it,
    rounding to nearest gives exactly zero.
    """

    log_max: float
    log_min: float


def _format(significand_bits: int, max_exponent: int, min_exponent: int) -> Format:
    """Format with `significand_bits` (hidden one included); 2**min_exponent is the smallest normal number."""
    log_max = max_exponent * math.log(2) + math.log1p(-(2.0**-significand_bits))
    smallest_subnormal = min_exponent - (significand_bits - 1)
    return Format(log_max, (smallest_subnormal - 1) * math.log(2))


FORMATS: dict[str, Format] = {
    "float16": _format(11, 16, -14),
    "bfloat16": _format(8, 128, -126),
    "float32": _format(24, 128, -126),
    "float64": _format(53, 1024, -1022),
}
"""Number formats by name (IEEE 754 binary16, binary32, binary64, and bfloat16 with subnormals)."""

# Log norms carry rounding errors; a crossing this little above a whole number of layers is that whole number,
# so that doubling overflows float64 at 1024 and not at 1025.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Limit:
    """Where one number format ends, for gradients that start at the loss as they were measured.

    With ``loss="probe"`` they have norm 1 there; a loss scaled by s moves both ends by ln(s) / rate.

    Parameters
    ----------
    kind
        ``"overflow"``, ``"underflow"``, or ``"none"`` when neither is in sight.
    distance
        Layers or steps from the loss at which the largest gradient entry (median over realizations)
        first is beyond the format's largest number, or rounds to zero; None for ``"none"``.
    extrapolated
        True when the distance lies beyond what was measured and was found by continuing at the measured rate.
    """

    kind: Literal["overflow", "underflow", "none"]
    distance: float | None
    extrapolated: bool


@dataclass(frozen=True)
class Growth:
    """What :func:`growth` found; ``str()`` fits one screen, :meth:`to_dict` is ready for JSON.

    Parameters
    ----------
    rate
        Mean growth of ln‖∂ℓ/∂x‖ per layer or step towards the input, nats. NaN when no realization has a
        nonzero finite gradient.
    ci
        Student-t confidence interval of the rate (low, high) at level `confidence`; NaN for one realization.
    total
        Mean growth over the whole network, nats: ``exp(total)`` is the whole-network factor.
    verdict
        ``"exploding"`` when ``exp(total)`` exceeds `threshold`, ``"vanishing"`` below ``1 / threshold``, else
        ``"stable"``. ``"vanishing"`` too when more than half of the gradients are exactly zero.
    verdict_confidence
        Probability, under the t distribution of the mean, that the mean total lies in the verdict's region;
        NaN for one realization. When zeros decided: probability (uniform prior) that most gradients are zero.
    zero_fraction, nonfinite_fraction
        Fractions of realizations whose input gradient (of any probe) is exactly zero, and not finite. Neither
        enters a mean.
    realizations
        Number of realizations, of all kinds.
    unit
        ``"layer"`` or ``"step"``.
    length
        Number of layers or steps between the loss and the input.
    threshold, confidence
        As given to :func:`growth`.
    limits
        :class:`Limit` by format name; empty when the Dataset has no ``gradient_log_max``.
    """

    rate: float
    ci: tuple[float, float]
    total: float
    verdict: Verdict
    verdict_confidence: float
    zero_fraction: float
    nonfinite_fraction: float
    realizations: int
    unit: Literal["layer", "step"]
    length: int
    threshold: float
    confidence: float
    limits: Mapping[str, Limit]

    def to_dict(self) -> dict[str, Any]:
        """Plain dict with the same keys; NaN becomes None, as JSON knows no NaN."""
        return {key: _json_ready(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        lines = [_headline(self), *_rate_lines(self), *_count_lines(self), *_limit_lines(self)]
        return "\n".join(lines)


def growth(ds: xr.Dataset, *, threshold: float = 10.0, confidence: float = 0.95) -> Growth:
    """How fast gradients grow or shrink on their way from the loss to the input.

    The growth of one realization is ln‖∂ℓ/∂x‖ at the input end minus that at the loss end; stacked recurrent
    nets take the norm over the states of all layers at a step. Each realization is one observation: its probes
    share one network, so they are averaged (logarithms) before anything is said about scatter.

    Parameters
    ----------
    ds
        Dataset of :func:`fastgrad.measure` with ``gradient_log_norm``, and ``gradient_log_max`` for `limits`;
        dims (realization, [probe,] layer), (realization, step) or (realization, layer, step).
    threshold
        Whole-network factor, > 1, beyond which gradients explode, and below whose inverse they vanish.
    confidence
        Level of the confidence interval, between 0 and 1.

    Returns
    -------
    Growth

    Raises
    ------
    ValueError
        When `ds` lacks ``gradient_log_norm`` or the two ends of the network, when no realization has a
        gradient that is finite or zero, or when `threshold` or `confidence` is out of bounds.

    Examples
    --------
    >>> import fastgrad as fg
    >>> net = fg.MLP(depth=10, width=1, activation="linear", weights=fg.Constant(2.0))
    >>> fg.growth(fg.measure(net, realizations=1)).limits["float32"]
    Limit(kind='overflow', distance=128.0, extrapolated=True)
    """
    fields: dict[str, Field] = {str(name): (tuple(map(str, variable.dims)), variable) for name, variable in ds.data_vars.items()}
    return growth_of(fields, ds.coords, threshold=threshold, confidence=confidence)


def growth_of(fields: Mapping[str, Field], coords: Mapping[Any, Any], *, threshold: float = 10.0, confidence: float = 0.95) -> Growth:
    """`growth` of plain arrays, for those who do without xarray.

    Parameters
    ----------
    fields
        The variables of a Dataset by name: (names of dimensions, array, anything else).
    coords
        The layers or steps that were kept, under ``"layer"`` or ``"step"``; 0, 1, … when it is missing.
    threshold, confidence
        As in :func:`growth`.

    Returns
    -------
    Growth

    Raises
    ------
    ValueError
        As :func:`growth`.
    """
    check_bounds(threshold, confidence)
    unit = _unit(fields)
    position, log_norm = _curves(fields, coords, "gradient_log_norm", unit)
    length = int(position[-1] - position[0])
    counts = _count(log_norm)
    totals = log_norm[counts.usable, 0] - log_norm[counts.usable, -1]
    total, error = _mean_and_error(totals)
    verdict, verdict_confidence = _verdict(total, error, math.log(threshold), counts)
    half = _t_quantile(confidence, counts.usable.sum()) * error
    ci = ((total - half) / length, (total + half) / length)
    limits: dict[str, Limit] = {}
    if "gradient_log_max" in fields:
        limits = _limits(*_curves(fields, coords, "gradient_log_max", unit), total / length, ci)
    return Growth(
        rate=total / length,
        ci=ci,
        total=total,
        verdict=verdict,
        verdict_confidence=verdict_confidence,
        zero_fraction=counts.zero / counts.all,
        nonfinite_fraction=counts.nonfinite / counts.all,
        realizations=counts.all,
        unit=unit,
        length=length,
        threshold=float(threshold),
        confidence=float(confidence),
        limits=limits,
    )


# --- reading the Dataset -----------------------------------------------------------------------------------


def check_bounds(threshold: float, confidence: float) -> None:
    """Refuse a threshold or confidence that makes no sense, with a ValueError."""
    if not (threshold > 1 and math.isfinite(threshold)):
        raise ValueError(f"threshold={threshold!r} must be a finite factor above 1, such as 10.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie between 0 and 1, such as 0.95.")


def _unit(fields: Mapping[str, Field]) -> Literal["layer", "step"]:
    if "gradient_log_norm" not in fields:
        have = ", ".join(fields) or "nothing"
        raise ValueError(
            f"growth needs the variable 'gradient_log_norm', and this Dataset has {have}; "
            "measure with record=None, or name 'gradient_log_norm' in record."
        )
    dims = fields["gradient_log_norm"][0]
    if "realization" not in dims:
        raise ValueError(
            f"growth needs the dimension 'realization', and 'gradient_log_norm' has {dims}; "
            "keep it when selecting, as in ds.isel(realization=[0])."
        )
    if "step" in dims:
        return "step"
    if "layer" in dims:
        return "layer"
    raise ValueError(f"growth needs the dimension 'layer' or 'step', and 'gradient_log_norm' has {dims}.")


def _curves(fields: Mapping[str, Field], coords: Mapping[Any, Any], name: str, unit: str) -> tuple[FloatArray, FloatArray]:
    """Kept layers or steps (k,), input end first, and the variable as (realization, k): stacks combined, probes averaged."""
    dims, array, *_ = fields[name]
    values = np.asarray(array, dtype=np.float64)
    if "probe" in dims:
        # -inf stays -inf: a realization counts as zero if one of its probes does.
        with np.errstate(invalid="ignore"):
            values = values.mean(axis=dims.index("probe"))
        dims = tuple(dim for dim in dims if dim != "probe")
    values = np.moveaxis(values, (dims.index("realization"), dims.index(unit)), (0, -1))
    position = np.asarray(coords[unit] if unit in coords else np.arange(values.shape[-1]), dtype=np.float64)
    if position.size < 2:
        raise ValueError(f"growth needs both ends of the network; this Dataset keeps {position.size} {unit}.")
    order = np.argsort(position, kind="stable")
    if not np.array_equal(order, np.arange(order.size)):
        position, values = position[order], values[..., order]
    return position, (values if values.ndim == 2 else combine_layers(values, name))


def combine_layers(values: FloatArray, name: str) -> FloatArray:
    """(realization, layer, step) to (realization, step): the states of all layers as one vector."""
    if name.endswith("_log_max"):
        return np.asarray(np.max(values, axis=1))
    with np.errstate(divide="ignore"):
        combined = 0.5 * np.logaddexp.reduce(2.0 * values, axis=1)
    return np.asarray(combined)


class _Counts(NamedTuple):
    usable: NDArray[np.bool_]
    zero: int
    nonfinite: int
    all: int


def _count(log_norm: FloatArray) -> _Counts:
    """Sort realizations: -inf at the input is a gradient of exactly zero, NaN or +inf is not finite."""
    start, end = log_norm[:, 0], log_norm[:, -1]
    nonfinite = np.isnan(start) | np.isnan(end) | np.isposinf(start) | np.isposinf(end)
    zero = ~nonfinite & np.isneginf(start)
    if nonfinite.all():
        raise ValueError(
            f"none of the {nonfinite.size} realizations has a finite gradient: the forward pass left the "
            "number range (left_range_at says where); "
            "measure with dtype='float64', fewer layers or steps, or smaller weights."
        )
    return _Counts(~nonfinite & ~zero, int(zero.sum()), int(nonfinite.sum()), nonfinite.size)


# --- statistics --------------------------------------------------------------------------------------------


def _mean_and_error(totals: FloatArray) -> tuple[float, float]:
    """Mean and its standard error; NaN where there are too few observations for them."""
    if totals.size == 0:
        return math.nan, math.nan
    mean = math.fsum(totals) / totals.size
    if totals.size == 1:
        return mean, math.nan
    # Rounding alone must not look like scatter: a deterministic network has an interval of width zero.
    scatter = totals - mean
    scatter[np.abs(scatter) <= 1e-12 * abs(mean)] = 0.0
    return mean, math.sqrt(math.fsum(scatter**2) / (totals.size - 1) / totals.size)


def _t_quantile(confidence: float, observations: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(observations - 1, 0.5 + confidence / 2)) if observations > 1 else math.nan


def _verdict(total: float, error: float, log_threshold: float, counts: _Counts) -> tuple[Verdict, float]:
    if counts.zero > (counts.all - counts.nonfinite) / 2:
        return "vanishing", _majority_confidence(counts)
    below = _probability_below(-log_threshold, total, error, counts.usable.sum())
    above = 1.0 - _probability_below(log_threshold, total, error, counts.usable.sum())
    if total > log_threshold:
        return "exploding", above
    if total < -log_threshold:
        return "vanishing", below
    return "stable", 1.0 - above - below


def _probability_below(bound: float, total: float, error: float, observations: int) -> float:
    """P(mean < bound) when (mean - total) / error follows Student's t."""
    from scipy.special import stdtr

    if observations < 2:
        return math.nan
    if error == 0.0:
        return float(total < bound)
    return float(stdtr(observations - 1, (bound - total) / error))


def _majority_confidence(counts: _Counts) -> float:
    """P(zero fraction > 1/2) given the counts and a uniform prior: a Beta distribution."""
    from scipy.special import betaincc

    if counts.all - counts.nonfinite < 2:
        return math.nan
    return float(betaincc(counts.zero + 1, counts.usable.sum() + 1, 0.5))


# --- number formats ----------------------------------------------------------------------------------------


def _limits(position: FloatArray, log_max: FloatArray, rate: float, ci: tuple[float, float]) -> dict[str, Limit]:
    log_max = log_max[~np.isnan(log_max).any(axis=1)]
    if not log_max.shape[0]:
        return {}
    distance = (position[-1] - position)[::-1]
    curve = np.median(log_max, axis=0)[::-1]
    # Going on at a rate whose sign is not known would be guessing.
    certain = math.isnan(ci[0]) or ci[0] > 0 or ci[1] < 0
    return {name: _limit(distance, curve, rate if certain else 0.0, ends) for name, ends in FORMATS.items()}


def _limit(distance: FloatArray, curve: FloatArray, rate: float, ends: Format) -> Limit:
    """Where `curve` (k,), natural logs at `distance` (k,) from the loss, first leaves the range `ends`."""
    slack = _ROUNDING * max(abs(rate), _ROUNDING)
    over = _first(curve >= ends.log_max - slack)
    under = _first(curve <= ends.log_min + slack)
    first = min(over, under)
    if first < curve.size:
        if over < under:
            return Limit("overflow", _crossing(distance, curve, first, ends.log_max), False)
        return Limit("underflow", _crossing(distance, curve, first, ends.log_min), False)
    if rate > 0:
        return Limit("overflow", _whole(distance[-1] + (ends.log_max - curve[-1]) / rate), True)
    if rate < 0:
        return Limit("underflow", _whole(distance[-1] + (ends.log_min - curve[-1]) / rate), True)
    return Limit("none", None, False)


def _first(mask: NDArray[np.bool_]) -> int:
    return int(np.argmax(mask)) if mask.any() else mask.size


def _crossing(distance: FloatArray, curve: FloatArray, first: int, end: float) -> float:
    """Distance at which a straight line between kept points `first` - 1 and `first` reaches `end`."""
    if first == 0 or not np.isfinite(curve[first]):
        return float(distance[first])
    before, after = curve[first - 1], curve[first]
    part = min((end - before) / (after - before), 1.0)
    return _whole(distance[first - 1] + part * (distance[first] - distance[first - 1]))


def _whole(distance: float) -> float:
    """A gradient only exists at whole layers: the first one at or beyond the crossing."""
    return float(math.ceil(distance - _ROUNDING))


# --- words -------------------------------------------------------------------------------------------------


def factor_text(log_factor: float) -> str:
    """exp(log_factor) for people: plain near 1, else a power of ten that cannot overflow."""
    decades = log_factor / math.log(10)
    if abs(decades) < 4:
        return f"{math.exp(log_factor):.4g}"
    return f"10^{decades:.1f}"


def _headline(g: Growth) -> str:
    if math.isnan(g.total) or g.zero_fraction > (1 - g.nonfinite_fraction) / 2:
        where = f"{g.length:,} {g.unit}s from the loss"
        return f"{g.verdict}: most gradients are exactly zero at the input, {where}"
    sure = "" if math.isnan(g.verdict_confidence) else f" (confidence {_percent(g.verdict_confidence)})"
    return (
        f"{g.verdict}: over {g.length:,} {g.unit}{'' if g.length == 1 else 's'} gradients change by a factor of {factor_text(g.total)} "
        f"on the way from the loss to the input{sure}"
    )


def _percent(probability: float) -> str:
    if probability > 0.999:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


def _rate_lines(g: Growth) -> list[str]:
    if math.isnan(g.rate):
        return []
    rate = f"rate          {g.rate:+.6g} nats per {g.unit} (factor {factor_text(g.rate)})"
    if math.isnan(g.ci[0]):
        return [rate]
    return [f"{rate}, {100 * g.confidence:g} % interval [{g.ci[0]:+.6g}, {g.ci[1]:+.6g}]"]


def _count_lines(g: Growth) -> list[str]:
    lines = [f"realizations  {g.realizations:,}"]
    for fraction, words in (
        (g.zero_fraction, "have a gradient of exactly zero"),
        (g.nonfinite_fraction, "have no finite gradient"),
    ):
        if fraction:
            number = round(fraction * g.realizations)
            lines.append(f"              {number:,} of them {words} and enter no mean")
    return lines


def _limit_lines(g: Growth) -> list[str]:
    if not g.limits:
        return ["number range  not known: this Dataset has no gradient_log_max"]
    rows = [f"{name:<9} {_limit_text(limit, g.unit)}" for name, limit in g.limits.items()]
    return [("number range  " if i == 0 else "              ") + row for i, row in enumerate(rows)]


def _limit_text(limit: Limit, unit: str) -> str:
    if limit.distance is None:
        return "neither overflow nor underflow in sight"
    beyond = " (extrapolated)" if limit.extrapolated else ""
    plural = "" if limit.distance == 1 else "s"
    return f"{limit.kind}s {limit.distance:,.0f} {unit}{plural} from the loss{beyond}"


def _json_ready(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_json_ready(item) for item in value]
    return value
