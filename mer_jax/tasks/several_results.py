"""What metrics.json holds of several targets at once: of every part what its task alone would say, as `parts`."""

from collections.abc import Mapping
from typing import Any


def of_part(metrics: Mapping[str, Any], asked: str) -> dict[str, Any]:
    """metrics.json as if this target were the run's. Raises ValueError, naming the field, if something of it is
    missing."""
    locked = metrics["protocol"].get("locked", False)
    replicas = [one | of_replica(one, asked) if one["status"] == "finished" else one for one in metrics["replicas"]]
    points = [one | _field(one, "parts", asked) if one["replicas"] and not locked else one for one in metrics["points"]]
    counts = {
        fold: {name: of | _field(of, "parts", asked) if "parts" in of else of for name, of in parts.items()}
        for fold, parts in metrics["data"]["counts"].items()
    }
    return {**metrics, "replicas": replicas, "points": points, "data": metrics["data"] | {"counts": counts}}


def of_replica(result: Mapping[str, Any], asked: str) -> dict[str, Any]:
    """What metrics.json says of one target of a replica, as if that were its task."""
    parts = {part: _field(result, part, "parts", asked) for part in ("valid", "test") if part in result}
    return {**parts, **_field(result, "parts", asked)}


def _field(told: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """What a field of a field holds; raises ValueError if it is missing."""
    found: Any = told
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            raise ValueError(f"field '{'.'.join(path)}' is missing")
        found = found[name]
    return dict(found)
