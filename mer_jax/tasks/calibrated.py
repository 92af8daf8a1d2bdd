"""What tasks have in common whose predictions are probabilities, divided by a temperature. No JAX at import."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.metrics.calibration import CALIBRATION, Scaling, calibration, scaling_in_words, temperature_scale
from mer_jax.metrics.metric import mean_sd
from mer_jax.tasks.task import Task


class Calibrated(Task, abc.ABC):
    """`calibration` of a replica is what `calibrated` says, of several what `pool_calibration` says."""

    def pool_calibration(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`calibration`: the means over the replicas, without those of a locked test part, and how many are scaled."""
        reasons = [r["calibration"]["scaling"]["reason"] for r in results]
        left_out = list(dict.fromkeys(reason for reason in reasons if reason))
        found: dict[str, Any] = {}
        if all("test" in result for result in results):
            for when in ("test", "test_scaled"):
                found[when] = {name: mean_sd([r["calibration"][when][name] for r in results]) for name in CALIBRATION}
        return {
            "calibration": found | {"scaling": {"used": reasons.count(""), "of": len(reasons), "left_out": left_out}}
        }

    def print_analysis(self, point: Mapping[str, Any], selects_on: str) -> None:
        from mer_jax.tasks import classification_console

        classification_console.print_calibration(point, selects_on)

    def temperature_of(self, result: Mapping[str, Any]) -> float:
        return result["calibration"]["temperature"]

    def describe_calibration(self, result: Mapping[str, Any], selects_on: str) -> str:
        return f"probabilities are {scaling_in_words(result['calibration'], selects_on)}"

    def shares(self, output: Mapping[str, Any]) -> dict[str, float]:
        """The probabilities."""
        return output["probabilities"]


def calibrated(scaling: Scaling, test: tuple[np.ndarray, np.ndarray] | None) -> dict[str, Any]:
    """What metrics.json says as `calibration` of a replica: the temperature, and of a test part that is not locked, its
    probabilities [rows, classes] and labels [rows], how far they can be believed as they are and scaled."""
    found: dict[str, Any] = {"temperature": scaling.temperature, "scaling": scaling.to_json()}
    if test is None:
        return found
    p, labels = test
    scaled = temperature_scale(p, scaling.temperature)
    return found | {"test": calibration(p, labels), "test_scaled": calibration(scaled, labels)}
