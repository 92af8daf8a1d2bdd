"""Which tokens of a frame visual sequence compression keeps: a picture, and a number where the corpus knows what tells.

    python -m mer_jax.visualize_vsc RUN --out kept.png

RUN is the workdir of a finished run of configs/deepmsi_mer_frames.py. In the picture each row is a clip of the test
part, or of the validation part while that is locked; what VSC dropped is dimmed. A corpus that says where in a frame to
look, in a modality `region` (left, top, right, bottom as shares of the frame), gets the share of the kept tokens that
lie there beside that of all tokens.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.data.corpus import Utterance
from mer_jax.data.frames import EncodedFrames, View, middle_square
from mer_jax.errors import UserError, reported

FAMILY = "deepmsi_mer_frames"
DIM = 0.25  # of a dropped token's brightness
SIDE = 128  # pixels of a frame in the picture


def main(argv: list[str] | None = None) -> None:
    arguments = flags().parse_args(argv)
    with reported():
        if arguments.count < 1 or arguments.out.suffix != ".png" or not arguments.out.parent.is_dir():
            raise UserError("--count must be at least 1, --out a .png in a folder that exists")
        found = draw_run(arguments.run, arguments.out, arguments.count, arguments.replica)
        print(f"wrote {arguments.out}")
        print(found or "the corpus does not say where in a frame to look: it has no modality `region`")


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.visualize_vsc",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="workdir of a finished run")
    add("--out", type=Path, required=True, metavar="FILE.png", help="where the picture goes")
    add("--count", type=int, default=8, metavar="N", help="clips in the picture; default: %(default)s")
    add("--replica", type=int, default=0, metavar="R", help="which replica's best model; default: 0")
    return parser


def draw_run(workdir: Path, out: Path, count: int, replica: int) -> str | None:
    """Draws `count` clips; returns the comparison where the corpus has regions. Raises UserError for a run that it
    cannot be of."""
    from mer_jax.evaluation.finished_run import metrics_of
    from mer_jax.evaluation.score_table import part_of
    from mer_jax.experiment import check, open_corpus
    from mer_jax.models.deepmsi_mer_frames import compressed_grid
    from mer_jax.models.family import experiment_from
    from mer_jax.runtime import sharding
    from mer_jax.training.resume import restore_finished
    from mer_jax.training.workdir import read_config_file

    sharding.start(files.cache_folder() / "xla")
    path = epath.Path(workdir)
    if not (path / "config.json").exists() or not (path / "metrics.json").exists():
        raise UserError(f"{workdir} holds no finished run")
    part = part_of(metrics_of(path / "metrics.json")["points"])
    config: Any = config_lib.validate(experiment_from(read_config_file(path / "config.json")["config"]))
    if config.family() != FAMILY or not config.model.vsc:
        raise UserError(f"{workdir} is no run with frames and VSC: configs/{FAMILY}.py makes one")
    corpus = open_corpus(config)
    check(config, corpus)
    run = restore_finished(config, corpus, path)
    if not 0 <= replica < len(run.progress):
        raise UserError(f"--replica={replica}: the run has replicas 0 to {len(run.progress) - 1}")
    token = config.backbone.patch * 2 ** (config.backbone.vsc_stage - 1) / config.frames.size
    grid = Grid(compressed_grid(config), token)
    view = View(**vars(config.frames))
    clips: list[Any] = []
    counts: list[Any] = []
    for row, utterance, kept in kept_tokens(run, replica, part):
        frames = utterance.features["visual"][: len(kept)]
        if len(clips) < count:
            clips.append((view.apply(frames), kept))
        if (boxes := utterance.features.get("region")) is not None:
            counts.append(count_tokens(boxes[: len(frames)], frames, kept, grid, corpus.where(row)))
    if not clips:
        raise UserError(f"{workdir}: no clip of the test part has frames")
    with files.atomic_file(out) as file:
        picture(clips, grid.side).save(file, "png")
    return comparison(np.array(counts)) if counts else None


@dataclasses.dataclass(frozen=True)
class Grid:
    """The tokens of a frame that VSC chooses among. side: tokens along a side; token: a token's side as a share of the
    frame's."""

    side: int
    token: float


def kept_tokens(run: Any, replica: int, part: str) -> Iterator[tuple[int, Utterance, Int[np.ndarray, "time kept"]]]:
    """(row in the corpus, utterance, which tokens of each frame that was read were kept) of the clips in this part of
    the replica's fold."""
    import jax

    from mer_jax.data import loader
    from mer_jax.evaluation.inspection import first_part
    from mer_jax.runtime import sharding
    from mer_jax.training import step

    batches, model, corpus = run.data.batches, run.groups.best(replica), run.corpus
    rows = getattr(run.data.folds[run.groups.replicas[replica].fold], part)
    replicated = sharding.replicated(batches.mesh)

    @jax.jit
    def kept_places(model: step.EvalState, batch: Any) -> Any:
        batch = step.standardize(batch, model.input_stats)
        return run.steps.apply(model.params, model.model_state, batch)[0]["kept"].place

    for source, positions, lengths, here in batches.evaluation([rows], run.config.train.eval_batch_size, 1):
        at = sharding.device_put_global(first_part(positions), replicated)
        found = np.asarray(kept_places(model, loader.materialize_batch(source, at, lengths)))
        for row, kept in zip(here[0].tolist(), found, strict=True):
            if row < 0:
                continue
            if length := int(batches.pool.lengths["visual"][row]):
                corpus_row = int(batches.pool.rows[row])
                yield corpus_row, corpus[corpus_row], kept[:length]


def count_tokens(
    boxes: np.ndarray, frames: EncodedFrames, kept: Int[np.ndarray, "time kept"], grid: Grid, where: str
) -> list[int]:
    """Of a clip the tokens that are kept and in the region, kept, in the region, all."""
    if boxes.shape != (len(frames), 4):
        raise UserError(f"{where}: region is {list(boxes.shape)}; it must be [frames, 4]: left, top, right, bottom")
    region = np.stack([tokens_in(box, frames, grid).ravel() for box in boxes])
    inside = np.take_along_axis(region, kept, axis=1)
    return [int(inside.sum()), inside.size, int(region.sum()), region.size]


def tokens_in(box: np.ndarray, frames: EncodedFrames, grid: Grid) -> Bool[np.ndarray, "side side"]:
    """Which tokens of the grid over the largest square in the middle of a frame have their middle in the box."""
    whole, *corner = middle_square(frames.height, frames.width)
    scale = np.array([frames.width, frames.height] * 2)
    left, top, right, bottom = (box.astype(np.float64) * scale - corner * 2) / whole
    middle = (np.arange(grid.side) + 0.5) * grid.token
    across, down = (left <= middle) & (middle < right), (top <= middle) & (middle < bottom)
    return down[:, None] & across[None]


def dimmed(
    image: UInt8[np.ndarray, "size size 3"], kept: Int[np.ndarray, "kept"], side: int
) -> UInt8[np.ndarray, "pixels pixels 3"]:
    """The frame, enlarged, with what was dropped dimmed. side: tokens along a side."""
    bright = np.zeros(side * side, bool)
    bright[kept] = True
    light = Image.fromarray(np.where(bright.reshape(side, side), 255, round(255 * DIM)).astype(np.uint8))
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


def comparison(counts: Int[np.ndarray, "clips 4"]) -> str:
    """The kept tokens beside all, in words. counts: those of `count_tokens`. The interval is of resampled clips."""
    if not counts[:, 2].sum():
        beyond = "beyond the square that the model sees"
        return f"no token has its middle in a region: regions are smaller than tokens, or {beyond}"
    rng = np.random.default_rng(0)
    drawn = counts[rng.integers(0, len(counts), (1000, len(counts)))].sum(1)
    ratios = [c[0] / c[1] / (c[2] / c[3]) for c in drawn if c[2]]
    inside, kept, region, every = counts.sum(0).tolist()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return (
        f"of the kept tokens {inside / kept:.1%} lie in the region, of all tokens {region / every:.1%}: "
        f"{inside / kept / (region / every):.2f} times as many as by chance (95 % interval over {len(counts):,} clips "
        f"{low:.2f} to {high:.2f}); of the region's tokens {inside / region:.1%} are kept, of all {kept / every:.1%}"
    )


if __name__ == "__main__":
    main()
