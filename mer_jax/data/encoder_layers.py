"""Which hidden layers of an encoder lie side by side in features, and how a run may choose among them. No JAX."""

from collections.abc import Iterable, Mapping
from typing import Any

from mer_jax.errors import UserError

Layers = dict[str, tuple[int, ...]]  # of each modality that has them, in the order in which they lie in a time step


def layers_of(modalities: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> Layers:
    """The layers of those of the named modalities of a manifest that have any."""
    return {m: tuple(modalities[m]["layers"]) for m in names if "layers" in modalities[m]}


def check_mix(corpus: str, found: Layers, mix: str, layer: int | float) -> None:
    """Raises UserError unless layers can be mixed this way (`settings.ModelSettings`). corpus: its name; found: what it
    holds of the run's modalities."""
    held = "; ".join(f"of {m} {', '.join(map(str, layers))}" for m, layers in found.items())
    if mix != "one" and layer:
        raise UserError(
            f"--config.model.layer={layer:g} is of --config.model.layer_mix=one, and that is {mix}; set it to one, or "
            "leave the layer out"
        )
    if mix == "joined":
        return
    if not found:
        raise UserError(
            f"--config.model.layer_mix={mix}: corpus {corpus!r} holds no layers of an encoder in the modalities of the "
            "run, so that there is nothing to mix; leave it at joined"
        )
    if mix == "learned":
        return
    if len(set(found.values())) > 1:
        raise UserError(
            f"--config.model.layer_mix=one takes the same layer of all modalities, and corpus {corpus!r} holds "
            f"different ones, {held}; read one of these modalities, or set layer_mix to learned"
        )
    if layer not in next(iter(found.values())):
        raise UserError(f"--config.model.layer={layer:g}: corpus {corpus!r} does not hold it; it holds {held}")
