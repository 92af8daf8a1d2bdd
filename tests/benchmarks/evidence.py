"""How often the time step that tells the class is ranked first by integrated gradients, as in
`Predictor.predict(…, attribution=True)`.

RUN is a finished run on the demo corpus (which it was trained on, of seed 0). Utterances are drawn like the demo's, but
in every modality exactly one time step, anywhere, holds the class's cue: the planted one.

Two shares are told for each modality. `of_utterances` counts every utterance once. `of_evidence` counts it as much as
the modality adds to the predicted class (its Shapley value, without the sign): where a model takes nothing from a
modality, the order of its steps says nothing. `--at-least 0.9` exits with 1 if `of_evidence` is lower in a modality.
"""

import argparse
import json
import sys

import numpy as np

import mer_jax
from mer_jax.data import synthetic
from mer_jax.predict.item import Item


def plant(spec, mean, basis, rng):
    """A sequence of three scenes in which one step is replaced by the one that tells; and where."""
    total, cue = int(rng.integers(spec.longest // 2, spec.longest + 1)), synthetic.CUE
    lengths = np.diff([0, *sorted(rng.choice(np.arange(1, total), 2, replace=False)), total])
    steps = np.concatenate([np.repeat(0.5 * rng.normal(size=(1, spec.width)), n, 0) for n in lengths])
    steps[:, : cue + 1] = 0
    at = int(rng.integers(total))
    steps[at] = 0.5 * rng.normal(size=spec.width)
    steps[at, :cue], steps[at, cue] = mean + 0.5 * rng.normal(size=cue), 4.0
    steps[:, cue + 1 :] += 0.3 * rng.normal(size=spec.width - cue - 1) + 0.2 * rng.normal(
        size=(total, spec.width - cue - 1)
    )
    return (steps @ basis).astype(np.float16), at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--count", type=int, default=512, metavar="N", help="utterances; default: %(default)s")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="SHARE")
    arguments = parser.parse_args()
    model = mer_jax.load(arguments.run)
    if not model.manifest.manifest["name"].startswith("demo"):
        sys.exit(f"{arguments.run} is no run on the demo corpus")
    means, bases = synthetic.codebook(0)
    rng = np.random.default_rng(5)
    items, planted = [], {}
    for i in range(arguments.count):
        label, features = int(rng.integers(len(synthetic.LABELS))), {}
        for m in model.modalities:
            features[m], planted[i, m] = plant(synthetic.MODALITIES[m], means[m][label], bases[m], rng)
        items.append(Item(str(i), features, label=synthetic.LABELS[label]))
    hits = {m: np.zeros(arguments.count, bool) for m in model.modalities}
    added = {m: np.zeros(arguments.count) for m in model.modalities}
    right = 0
    for i, found in enumerate(model.predict(iter(items), attribution=True)):
        right += found.prediction == found.label
        for m in model.modalities:
            hits[m][i] = int(found.attribution.integrated_gradients[m].argmax()) == planted[i, m]
            added[m][i] = abs(found.attribution.shapley[m])
    of_evidence = {m: float(np.average(hits[m], weights=added[m])) for m in model.modalities}
    told = {
        "utterances": arguments.count,
        "classified_right": right / arguments.count,
        "planted_step_first": {
            "of_utterances": {m: round(float(hits[m].mean()), 3) for m in model.modalities},
            "of_evidence": {m: round(share, 3) for m, share in of_evidence.items()},
        },
    }
    print(json.dumps(told))
    sys.exit(min(of_evidence.values()) < arguments.at_least)


if __name__ == "__main__":
    main()
