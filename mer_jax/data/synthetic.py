"""The built-in demo corpus: synthetic, seeded, with a Bayes-optimal accuracy that is known for every set of modalities,
with and without the dialogue.

How an utterance comes about (all of it [ours], none of it resembles a person):
  class y ~ PRIOR, imbalanced like MELD's seven classes; how those of a dialogue depend on each other stands in
  synthetic_dialogues.py. Each modality m says something about y through a cue c_m in R^4: with probability noise_m the
  modality is corrupted and c_m ~ N(0, I) whatever y is, otherwise c_m ~ N(mu_m[y], I). The sequence holds the cue in
  some of its frames (each copied a few times, as a camera repeats itself), among filler frames. A marker direction
  tells cue frames from fillers; speaker offset and frame noise live in directions orthogonal to the cue's.
So p(c_m | y) is a two-part Gaussian mixture, modalities are independent given y, and the best possible classifier of
an utterance by itself is argmax_y log p(y) + sum_m log p(c_m | y). The best one that hears the dialogue, too, takes the
exact posterior given the past turns, or all of them. Their accuracy is the mean of the highest posterior probability,
over 12,000 drawn dialogues (standard error below 0.001).

The variant `clutter` has longer visual sequences of which 80 % of the frames say nothing: half of those repeat one
picture, half are noise, also where the cue would be. Frames that hold the cue stand anywhere among them.

The variant `frames` draws the visual cue: in each of a few frames a square of 12 x 12 pixels, at any place of a grid of
4, whose colours are 180 + 8 sum_k c_k P_k with four fixed, independent patterns P_k of +1 and -1; about it a mosaic of
random colours, 115 +- 45, so that the square is on the whole brighter and of a piece. Its cue is clearer than the
vectors': spread 3.5, noise 0.05. Where the square is stands in a modality of its own, `region`.

The variants `regression`, `multilabel`, `mosei` and `sims` ask for numbers: see synthetic_targets.py. With `frames-`
before their names they have drawn frames.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax import files
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.description import Description
from mer_jax.data.frames import EncodedFrames, encode_frames
from mer_jax.data.synthetic_dialogues import CONTEXTS, SHORTEST, draw_dialogues, posteriors
from mer_jax.data.synthetic_targets import ASKED, DRAWN, Asked, best_scores, described, directions
from mer_jax.errors import UserError

VERSION = 4  # of the bytes on disk
DRAW = 1  # of the random numbers: features and labels change with it
LABELS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
PRIOR = np.array([4710, 1743, 1205, 1109, 683, 271, 268]) / 9989  # MELD's training counts
COUNTS = {"train": 4000, "valid": 600, "test": 2000}
CUE = 4
DIALOGUES, AT_ONCE = 12_000, 1_000  # drawn for the Bayes-optimal accuracy; how many fit into a processor's cache


@dataclasses.dataclass(frozen=True)
class Modality:
    """width: features per frame; longest: frames; spread: length of the class means mu; noise: chance of corruption;
    clutter: share of frames that are redundant or noise, 0 = three scenes of which one holds the cue; pixels: along a
    side of drawn frames, 0 = none are drawn."""

    width: int
    longest: int
    spread: float
    noise: float
    clutter: float = 0.0
    pixels: int = 0


MODALITIES = {
    "text": Modality(width=32, longest=12, spread=2.6, noise=0.10),
    "audio": Modality(width=24, longest=12, spread=2.2, noise=0.15),
    "visual": Modality(width=40, longest=10, spread=2.0, noise=0.20),
}
FRAMES = MODALITIES | {"visual": Modality(width=40, longest=4, spread=3.5, noise=0.05, pixels=32)}
VARIANTS = {
    "": MODALITIES,
    "clutter": MODALITIES | {"visual": dataclasses.replace(MODALITIES["visual"], longest=20, clutter=0.8)},
    "frames": FRAMES,
    **dict.fromkeys(ASKED, MODALITIES),
    **dict.fromkeys((f"frames-{name}" for name in ASKED), FRAMES),
}
CELL, SQUARE = 4, 12  # pixels along a side: of the mosaic, of the telling square


def class_means(spec: Modality, rng: np.random.Generator) -> np.ndarray:
    """[classes, CUE] directions of length `spread`, pushed apart from a random start."""
    means = rng.normal(size=(len(LABELS), CUE))
    for _ in range(200):
        gap = means[:, None] - means[None]
        push = gap / (np.square(gap).sum(-1, keepdims=True) + 0.1)
        means = means + 0.1 * push.sum(1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    return spec.spread * means


def cue_log_likelihood(cue: np.ndarray, means: np.ndarray, noise: float) -> np.ndarray:
    """log p(c | y) up to a constant shared by all y: cue [n, CUE], means [classes, CUE] -> [n, classes]."""
    clean = -0.5 * np.square(cue[:, None] - means[None]).sum(-1)
    corrupt = -0.5 * np.square(cue).sum(-1, keepdims=True)
    return np.logaddexp(np.log1p(-noise) + clean, np.log(noise) + corrupt)


def draw_cues(labels: np.ndarray, means: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    kept = rng.random(len(labels)) >= noise
    return means[labels] * kept[:, None] + rng.normal(size=(len(labels), CUE))


def bayes_key(modalities: Iterable[str], context: str) -> str:
    """What the manifest's `bayes_accuracy` calls a set of modalities with one of CONTEXTS: `audio+text` without any,
    `audio+text, past` and `audio+text, both` with it."""
    return "+".join(sorted(modalities)) + (f", {context}" if context != "none" else "")


def bayes_accuracies(
    specs: dict[str, Modality], means: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, float]:
    """By bayes_key, of every non-empty set of modalities and every context: how often the exact posterior's argmax is
    right."""
    drawn = draw_dialogues(DIALOGUES, PRIOR, rng)
    labels = drawn.labels[drawn.exists]
    told = {
        m: cue_log_likelihood(draw_cues(labels, means[m], spec.noise, rng), means[m], spec.noise)
        for m, spec in specs.items()
    }
    accuracies: dict[str, float] = {}
    for subset in itertools.chain.from_iterable(itertools.combinations(sorted(MODALITIES), n) for n in (1, 2, 3)):
        together = np.sum([told[m] for m in subset], axis=0)
        likelihood = np.ones((*drawn.exists.shape, len(LABELS)))
        likelihood[drawn.exists] = np.exp(together - together.max(1, keepdims=True))
        right = dict.fromkeys(CONTEXTS, 0.0)  # expected: the highest posterior probability is that of being right
        for some in (slice(first, first + AT_ONCE) for first in range(0, DIALOGUES, AT_ONCE)):
            for context, posterior in posteriors(likelihood[some], drawn.switch[some], PRIOR).items():
                right[context] += float(posterior.max(-1)[drawn.exists[some]].sum())
        accuracies |= {bayes_key(subset, context): round(right[context] / len(labels), 4) for context in CONTEXTS}
    return accuracies


def render(
    cue: np.ndarray, spec: Modality, basis: np.ndarray, offset: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A sequence [time, width] holding `cue`; basis: [width, width], orthonormal, the first rows cue and marker."""
    total = int(rng.integers(spec.longest // 2, spec.longest + 1))
    frames = (cluttered if spec.clutter else in_scenes)(cue, total, spec, rng)
    frames[:, CUE + 1 :] += offset + 0.2 * rng.normal(size=(len(frames), spec.width - CUE - 1))
    return (frames @ basis).astype(np.float16)


def in_scenes(cue: np.ndarray, total: int, spec: Modality, rng: np.random.Generator) -> np.ndarray:
    scenes = []
    cue_scene = rng.integers(0, 3)
    for scene, frames in enumerate(np.diff([0, *sorted(rng.choice(np.arange(1, total), 2, replace=False)), total])):
        content = 0.5 * rng.normal(size=spec.width)  # one picture, repeated: redundant frames
        content[: CUE + 1] = 0.0
        if scene == cue_scene:
            content[:CUE], content[CUE] = cue, 4.0
        scenes.append(np.repeat(content[None], frames, axis=0))
    return np.concatenate(scenes)


def cluttered(cue: np.ndarray, total: int, spec: Modality, rng: np.random.Generator) -> np.ndarray:
    kind = rng.permutation(total)  # the lowest numbers hold the cue, the highest are noise, the rest repeat one picture
    telling = max(1, round((1 - spec.clutter) * total))
    frames = np.repeat(0.5 * rng.normal(size=(1, spec.width)), total, axis=0)
    frames[:, : CUE + 1] = 0.0
    frames[kind < telling, :CUE], frames[kind < telling, CUE] = cue, 4.0
    noise = kind >= telling + (total - telling) // 2
    frames[noise] = rng.normal(size=(int(noise.sum()), spec.width))
    frames[noise, CUE] = 0.0
    return frames


def patterns() -> np.ndarray:
    """[CUE, SQUARE, SQUARE, 3] of +1 and -1: two colours of the whole, left against right, top against bottom."""
    half = np.where(np.arange(SQUARE) < SQUARE // 2, -1, 1)
    flat, across, down = np.ones((SQUARE, SQUARE)), np.tile(half, (SQUARE, 1)), np.tile(half, (SQUARE, 1)).T
    warm, cold = np.array([1, 1, -1]), np.array([1, -1, 1])
    return np.stack([flat[..., None] * warm, flat[..., None] * cold, across[..., None] * warm, down[..., None] * cold])


def draw(cue: np.ndarray, spec: Modality, rng: np.random.Generator) -> tuple[EncodedFrames, np.ndarray]:
    """Frames that show the cue, and of each the box of its square: left, top, right, bottom as shares of the frame."""
    count, cells = int(rng.integers(spec.longest // 2, spec.longest + 1)), spec.pixels // CELL
    square = 180 + 8 * np.tensordot(cue, patterns(), 1)
    images, boxes = [], []
    for _ in range(count):
        mosaic = 115 + 45 * rng.normal(size=(cells, cells, 3))
        image = mosaic.repeat(CELL, 0).repeat(CELL, 1) + 6 * rng.normal(size=(spec.pixels, spec.pixels, 3))
        x, y = CELL * rng.integers(0, cells - SQUARE // CELL + 1, 2)
        image[y : y + SQUARE, x : x + SQUARE] = square + 6 * rng.normal(size=square.shape)
        images.append(image.round().clip(0, 255).astype(np.uint8))
        boxes.append(np.array([x, y, x + SQUARE, y + SQUARE]) / spec.pixels)
    return encode_frames(images, "jpeg", 90), np.array(boxes, np.float16)


def features_of(
    modality: str, cue: np.ndarray, spec: Modality, basis: np.ndarray, offset: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray | EncodedFrames]:
    if not spec.pixels:
        return {modality: render(cue, spec, basis, offset, rng)}
    frames, boxes = draw(cue, spec, rng)
    return {modality: frames, "region": boxes}


def generate(
    seed: int,
    counts: dict[str, int],
    specs: dict[str, Modality],
    means: dict[str, np.ndarray],
    bases: dict[str, np.ndarray],
    asked: Asked | None = None,
) -> Iterator[Utterance]:
    rng, values_rng = (np.random.default_rng([DRAW, seed, number]) for number in (1, 2))
    prior = PRIOR if asked is None else asked.prior
    for split, count in counts.items():
        offsets = {m: 0.3 * rng.normal(size=(8, spec.width - CUE - 1)) for m, spec in specs.items()}
        drawn = draw_dialogues(-(-count // SHORTEST), prior, rng)
        dialogues, turns = (found[:count] for found in np.nonzero(drawn.exists))
        labels, second = drawn.labels[dialogues, turns], drawn.switch.cumsum(1)[dialogues, turns] % 2
        speakers = (2 * dialogues + second) % 8
        cues = {m: draw_cues(labels, means[m], spec.noise, rng) for m, spec in specs.items()}
        columns = (column.tolist() for column in (dialogues, turns, labels, speakers))
        for i, (dialogue, turn, label, speaker) in enumerate(zip(*columns, strict=True)):
            yield Utterance(
                id=f"{split}_d{dialogue:03d}_u{turn:02d}",
                split=split,
                dialogue=f"{split}_d{dialogue:03d}",
                turn=turn,
                speaker=f"{split}_s{speaker}",
                session=split,
                label=LABELS[label] if asked is None else "",
                values={} if asked is None else asked.values(label, values_rng),
                sentence=f"demo utterance {i} of {split}",
                features={
                    name: value
                    for m in specs
                    for name, value in features_of(m, cues[m][i], specs[m], bases[m], offsets[m][speaker], rng).items()
                },
            )


def codebook(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of the demo corpus of `seed`: the mean cue of each class [classes, CUE] and the basis that cues and marker are
    written in [width, width], by modality."""
    return codebook_of(MODALITIES, np.random.default_rng([DRAW, seed, 0]))


def codebook_of(specs: dict[str, Modality], rng: np.random.Generator, asked: Asked | None = None) -> Any:
    if asked is None:
        means = {m: class_means(spec, rng) for m, spec in specs.items()}
    else:
        towards = {m: directions(len(asked.target.names), CUE, rng) for m in specs}
        means = {m: spec.spread * asked.coordinates @ towards[m] for m, spec in specs.items()}
    return means, {m: np.linalg.qr(rng.normal(size=(spec.width, spec.width)))[0] for m, spec in specs.items()}


def write_demo(out: Path, seed: int = 0, counts: dict[str, int] = COUNTS, variant: str = "") -> None:
    """Writes the demo corpus of `seed`: the same bytes every time on one kind of machine."""
    specs, name = VARIANTS[variant], variant.removeprefix("frames-")
    asked = ASKED[name]() if name in ASKED else None
    rng = np.random.default_rng([DRAW, seed, 0])
    means, bases = codebook_of(specs, rng, asked)
    names = LABELS if asked is None else asked.target.names
    told = means["text"]
    if asked is not None:  # by what is there of each name, and of no other
        told = np.linalg.lstsq(asked.coordinates, told, rcond=None)[0]
    words = told @ bases["text"][:CUE] + 0.3 * rng.normal(size=(len(names), specs["text"].width))
    if asked is None:
        asks: dict[str, Any] = {"labels": LABELS, "label_words": LABELS, "label_embeddings": words}
        asks["bayes_accuracy"] = bayes_accuracies(specs, means, rng)
    else:
        asks = {
            "labels": (),
            "label_words": (),
            "label_embeddings": words[:0],
            "targets": (described(asked.target, words),),
        }
        asks["bayes_scores"] = {asked.target.name: bayes_scores(asked, specs, means, rng)}
    write_corpus(
        out,
        generate(seed, counts, specs, means, bases, asked),
        Description(
            name=f"demo-{variant}" if variant else "demo",
            extractors=dict.fromkeys(
                [*MODALITIES, *["region"] * bool(specs["visual"].pixels)], "mer_jax.synthetic generator"
            ),
            label_space="text",
            protocol={"name": "official", "description": "generated split; no speaker or dialogue is in two parts"},
            provenance={"tool": "mer_jax.synthetic", "version": VERSION, "seed": seed}
            | ({"variant": variant} if variant else {}),
            licence="synthetic; no rights reserved",
            **asks,
        ),
    )


def bayes_scores(
    asked: Asked, specs: dict[str, Modality], means: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """By bayes_key, of every non-empty set of modalities without any context: the scores of the exact posterior."""
    states = rng.choice(len(asked.prior), DRAWN, p=asked.prior)
    told = {
        m: cue_log_likelihood(draw_cues(states, means[m], spec.noise, rng), means[m], spec.noise)
        for m, spec in specs.items()
    }
    return {bayes_key(some, "none"): scores for some, scores in best_scores(asked, specs, told, states).items()}


def demo_corpus(seed: int = 0, variant: str = "") -> Corpus:
    """Opens the demo corpus, making it first (seconds) in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if variant not in VARIANTS:
        raise UserError(f"there is no demo corpus {variant!r}; there is {', '.join(filter(None, VARIANTS))}")
    path = files.cache_folder() / f"demo{'-' * bool(variant)}{variant}-v{VERSION}-seed{seed}"
    if not path.exists():
        try:
            write_demo(path, seed, variant=variant)
        except UserError:  # another process on this machine made it while we waited for the lock
            if not path.exists():
                raise
    return Corpus(path)
