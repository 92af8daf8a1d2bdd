"""Which tokens of a frame visual sequence compression keeps: a picture, and a number where the corpus knows what tells.

    python -m mer_jax.kept RUN --out kept.png

RUN is the workdir of a finished run of configs/deepmsi_mer_frames.py. In the picture each row is a clip of the test part; what
VSC dropped is dimmed. A corpus that says where in a frame to look, in a modality `region` (left, top, right, bottom as shares of
the frame), gets the share of the kept tokens that lie there beside that of all tokens.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.data.corpus import Corpus
from mer_jax.data.frames import EncodedFrames, View, middle_square
from mer_jax.errors import UserError, reported
from mer_jax.experiment import check, open_corpus
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import family as family_lib

DIM = 0.25  # of a dropped token's brightness
SIDE = 128  # pixels of a frame in the picture


def tokens_in(box: np.ndarray, frames: EncodedFrames, side: int, token: float) -> Bool[np.ndarray, "side side"]:
    """Which tokens of a grid over the largest square in the middle of a frame have their middle in the box. token: a token's
    side as a share of the square's."""
    whole, *corner = middle_square(frames.height, frames.width)
    scale = np.array([frames.width, frames.height] * 2)
    left, top, right, bottom = (box.astype(np.float64) * scale - corner * 2) / whole
    middle = (np.arange(side) + 0.5) * token
    across, down = (left <= middle) & (middle < right), (top <= middle) & (middle < bottom)
    return down[:, None] & across[None]


def dimmed(
    image: UInt8[np.ndarray, "size size 3"], kept: Int[np.ndarray, "kept"], side: int
) -> UInt8[np.ndarray, "pixels pixels 3"]:
    """The frame, enlarged, with what was dropped dimmed."""
    seen = np.zeros(side * side, bool)
    seen[kept] = True
    light = Image.fromarray(np.where(seen.reshape(side, side), 255, round(255 * DIM)).astype(np.uint8))
    large = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    black = Image.new("RGB", large.size)
    return np.asarray(Image.composite(large, black, light.resize(large.size, Image.Resampling.NEAREST)))


def picture(clips: list[tuple[np.ndarray, np.ndarray]], side: int) -> Image.Image:
    """clips: of each its frames UInt8[time, size, size, 3], and Int[time, kept]."""
    longest = max(len(images) for images, _ in clips)
    sheet = np.full((len(clips) * (SIDE + 8), longest * (SIDE + 8), 3), 255, np.uint8)
    for r, (images, kept) in enumerate(clips):
        for c, (image, places) in enumerate(zip(images, kept, strict=True)):
            y, x = r * (SIDE + 8) + 4, c * (SIDE + 8) + 4
            sheet[y : y + SIDE, x : x + SIDE] = dimmed(image, places, side)
    return Image.fromarray(sheet)


def compare(counts: np.ndarray) -> str:
    """counts: Int[clips, 4]: tokens kept in the region, kept, in the region, all. The interval is of resampled clips."""
    if not counts[:, 2].sum():
        return "no token has its middle in a region: regions are smaller than tokens, or beyond the square that the model sees"
    rng = np.random.default_rng(0)
    drawn = counts[rng.integers(0, len(counts), (1000, len(counts)))].sum(1)
    times = [c[0] / c[1] / (c[2] / c[3]) for c in drawn if c[2]]
    inside, kept, region, every = counts.sum(0).tolist()
    low, high = np.quantile(times, [0.025, 0.975])
    return (
        f"of the kept tokens {inside / kept:.1%} lie in the region, of all tokens {region / every:.1%}: {inside / kept / (region / every):.2f} "
        f"times as many as by chance (95 % interval over {len(counts):,} clips {low:.2f} to {high:.2f}); "
        f"of the region's tokens {inside / region:.1%} are kept, of all {kept / every:.1%}"
    )


def compute_kept_tokens(run: Path, out: Path, count: int, replica: int) -> str | None:
    """Draws `count` clips; returns the comparison where the corpus has regions. Raises UserError for a run that it cannot be of."""
    from etils import epath

    from mer_jax.runtime import sharding
    from mer_jax.training import resume

    sharding.start(files.cache_folder() / "xla")
    path = epath.Path(run) / "config.json"
    if not path.exists() or not (run / "metrics.json").exists():
        raise UserError(f"{run} holds no finished run")
    config = config_lib.validate(family_lib.from_dict(files.read_json(path)["config"]))
    if not isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment) or not config.model.vsc:
        raise UserError(f"{run} is no run with frames and VSC: configs/deepmsi_mer_frames.py makes one")
    corpus = open_corpus(config)
    check(config, corpus)
    whole = resume.restore_finished(config, corpus, epath.Path(run))
    if not 0 <= replica < len(whole.standings):
        raise UserError(f"--replica={replica}: the run has replicas 0 to {len(whole.standings) - 1}")
    clips, counts, side = gather(whole, corpus, config, count, replica)
    if not clips:
        raise UserError(f"{run}: no clip of the test part has frames")
    picture(clips, side).save(out)
    return compare(counts) if len(counts) else None


def gather(whole: Any, corpus: Corpus, config: Any, count: int, replica: int) -> tuple[list[Any], np.ndarray, int]:
    """(clips to draw, counts for `compare`, side of the grid) of the test part of the replica's fold."""
    import jax

    from mer_jax.data import loader
    from mer_jax.runtime import sharding
    from mer_jax.training import step

    side = deepmsi_mer_frames_lib.compressed_grid(config)
    token = config.backbone.patch * 2 ** (config.backbone.stage - 1) / config.frames.size
    view = View(**vars(config.frames))
    feed, model = whole.inputs.feed, whole.fleet.best(replica)
    rows = whole.inputs.folds[whole.fleet.replicas[replica].fold].test

    @jax.jit
    def places(model: step.EvalState, batch: Any) -> Any:
        return whole.program.apply(model.params, model.rest, step.standardize(batch, model.input_stats))[0][
            "kept"
        ].place

    clips: list[tuple[np.ndarray, np.ndarray]] = []
    counts = []
    for source, at, pads, here in feed.evaluation([rows], config.train.eval_batch_size, 1):
        batch = loader.materialize_batch(
            source, sharding.device_put_global(at[0], sharding.replicated(feed.mesh)), pads
        )
        found = np.asarray(places(model, batch))
        for row, kept in zip(here[0].tolist(), found, strict=True):
            if row < 0:
                continue
            utterance = corpus[int(feed.pool.rows[row])]
            frames = utterance.features.get("visual", ())[: feed.pool.lengths["visual"][row]]
            if not len(frames):
                continue
            kept = kept[: len(frames)]
            if len(clips) < count:
                clips.append((view.of(frames), kept))
            if "region" in utterance.features:
                boxes = utterance.features["region"][: len(frames)]
                if boxes.shape != (len(frames), 4):
                    where = corpus.where(int(feed.pool.rows[row]))
                    raise UserError(
                        f"{where}: region is {list(boxes.shape)}; it must be [frames, 4]: left, top, right, bottom"
                    )
                region = np.stack([tokens_in(box, frames, side, token).ravel() for box in boxes])
                inside = np.take_along_axis(region, kept, axis=1)
                counts.append([inside.sum(), inside.size, region.sum(), region.size])
    return clips, np.array(counts), side


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.kept", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="workdir of a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="where the picture goes")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="clips in the picture; default: %(default)s")
    parser.add_argument("--replica", type=int, default=0, metavar="R", help="which replica's best model; default: 0")
    given = parser.parse_args(argv)
    with reported():
        if given.count < 1 or given.out.suffix != ".png" or not given.out.parent.is_dir():
            raise UserError("--count must be at least 1, --out a .png in a folder that exists")
        found = compute_kept_tokens(given.run, given.out, given.count, given.replica)
        print(f"wrote {given.out}")
        print(found or "the corpus does not say where in a frame to look: it has no modality `region`")


if __name__ == "__main__":
    main()
