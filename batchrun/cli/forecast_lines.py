"""A forecast in words, for `plan` and for the question that `run` asks before it starts many Runs."""

from collections.abc import Callable

from batchrun.policy.forecast import Estimate
from batchrun.preflight.batch_forecast import Forecast
from batchrun.words.number_words import counted, duration, money


def forecast_lines(forecast: Forecast | None, *, has_unknowns: bool = True) -> list[str]:
    """Return time and cost of a batch, the Runs that the forecast is made from, and, if wanted, what is unknown."""
    if forecast is None:
        return []
    if forecast.elapsed_s is None or forecast.run_s is None:
        lines = []
    else:
        at_once = counted(forecast.slots, "Run")
        cost = "cost unknown" if forecast.cost_usd is None else _spread(forecast.cost_usd, money)
        samples = counted(forecast.samples, "recent one")
        each = "" if forecast.run_cost_usd is None else f" and costs {_spread(forecast.run_cost_usd, money)}"
        lines = [
            f"forecast  {_spread(forecast.elapsed_s, duration)} with {at_once} at once; {cost}",
            f"          a Run takes {_spread(forecast.run_s, duration)}{each}, by {samples}",
        ]
    return lines + ([f"unknown   {each}" for each in forecast.unknown] if has_unknowns else [])


def _spread(estimate: Estimate, words: Callable[[float], str]) -> str:
    return f"{words(estimate.p50)} (p90 {words(estimate.p90)})"
