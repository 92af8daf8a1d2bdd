"""A finished run as something to use: `load` a workdir, then `predict`. It needs neither the corpus nor the optimiser's state."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.data import loader
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Manifest
from mer_jax.data.frames import EncodedFrames, View
from mer_jax.errors import UserError
from mer_jax.evaluation import attribution as attribution_lib
from mer_jax.files import read_json_or_none
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import family
from mer_jax.models import family as family_lib
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.inputs import items_of
from mer_jax.predict.item import Item
from mer_jax.runtime import checkpoint, sharding
from mer_jax.training import step

WINDOW_BATCHES = 4  # batches whose items are sorted by length among themselves
MAX_WAIT_SECONDS = 1.0  # seconds to wait for more items before those at hand are classified


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Why one utterance was classified so: see `explain.Explanation`; here of this utterance alone, without padding, and
    `shapley` of the predicted class. kept: which frames VSC kept, Int[kept], or which tokens of each frame, Int[time, kept];
    into: in which of the kept ones each frame or token ended, as many as there are where it was dropped; None without VSC."""

    shapley: dict[str, float]
    evidence: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]
    kept: np.ndarray | None
    into: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """probabilities: by class name, temperature-scaled; empty, and `prediction` too, where `error` says what is wrong with
    the input. label: as the input has it, often empty. start, end: seconds in the file. words: see `inputs.Item`."""

    id: str
    prediction: str
    probabilities: dict[str, float]
    label: str = ""
    sentence: str = ""
    start: float | None = None
    end: float | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    words: tuple[str, ...] = ()
    attribution: Attribution | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        found = {k: v for k, v in vars(self).items() if v not in ("", (), None, {}) and k != "attribution"}
        found |= (
            {"probabilities": {k: round(v, 6) for k, v in self.probabilities.items()}} if self.probabilities else {}
        )
        if self.attribution is not None:
            values = {k: v for k, v in vars(self.attribution).items() if v is not None}
            found["attribution"] = jax.tree.map(lambda x: np.round(np.float64(x), 4).tolist(), values)
        return found


def unlabelled_batch(features: dict[str, Any], mask: dict[str, Any]) -> Batch:
    """A batch of utterances whose targets are not known."""
    size = next(iter(mask.values())).shape[0]  # len() takes no symbol
    return Batch(features, mask, {}, jnp.ones((size,)))


def calibrated_probabilities(apply: Callable[..., Any], model: step.EvalState, temperature: Any, batch: Batch) -> Any:
    """Temperature-scaled probabilities, Float[batch, classes]. The batch is as it was read, not standardised."""
    logits = apply(model.params, model.rest, step.standardize(batch, model.input_stats))[0]["logits"]
    return jax.nn.softmax(logits / temperature, axis=-1)


class Predictor:
    """The best models of a finished run, one for every replica that finished.

    labels: class names in the models' order; modalities: what each reads, as in the corpus's manifest; metrics: metrics.json.
    """

    def __init__(
        self,
        config: config_lib.Experiment,
        manifest: Manifest,
        metrics: Mapping[str, Any],
        best: Any,
        where: str = "",
    ):
        self.config, self.manifest, self.metrics, self.where = config, manifest, metrics, where
        self.labels = manifest.labels
        self.modalities = {m: manifest.modalities[m] for m in config.data.modalities}
        self.replicas = [replica["name"] for replica in metrics["replicas"]]
        self._best = best
        self._limits = config_lib.max_lengths(config.data)
        self._view = (
            View(**vars(config.frames)) if isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment) else None
        )
        self._mesh = sharding.make_mesh()
        self._apply = family.family_of(config, manifest)[0].apply

    def step_of(self, modality: str) -> tuple[tuple[int, ...], Any]:
        """(shape, dtype) of a time step as the models read it."""
        spec = self.modalities[modality]
        if self._view and "pixels" in spec:
            return (self._view.size, self._view.size, 3), np.uint8
        return (spec["width"],), np.float32

    def chosen(self) -> list[int]:
        """The finished replicas of the point that validation chose."""
        values = next(point["values"] for point in self.metrics["points"] if point["chosen"])
        replicas = enumerate(self.metrics["replicas"])
        return [i for i, r in replicas if r["status"] == "finished" and r["values"] == values]

    def which(self, replica: int | str | None) -> list[int]:
        """None: the first of `chosen`; "all": all of these; else a replica by number or name. Raises UserError for another."""
        if replica is None:
            return self.chosen()[:1]
        if replica == "all":
            return self.chosen()
        found = [i for i, name in enumerate(self.replicas) if replica in (i, str(i), name)]
        if not found or self.metrics["replicas"][found[0]]["status"] != "finished":
            raise UserError(
                f"replica {replica!r}: {self.where} has all, or one of the finished among 0 to {len(self.replicas) - 1}: "
                + ", ".join(self.replicas)
            )
        return found[:1]

    def temperature(self, replica: int) -> float:
        """What the logits are divided by, fitted on the replica's validation part."""
        return self.metrics["replicas"][replica]["calibration"]["temperature"]

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as its models
    def model(self, replica: int) -> step.EvalState:
        """On the devices."""
        alone = jax.tree.map(lambda x: x[replica], self._best)
        return sharding.device_put_global(step.EvalState(**alone), sharding.replicated(self._mesh))

    def forward(self, replica: int = 0) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
        """A pure function of (features[m]: Float[batch, time, feat], mask[m]: Bool[batch, time]), as they come from a corpus,
        that gives the temperature-scaled probabilities, Float[batch, classes]; any batch and any time."""
        model, temperature = self.model(replica), self.temperature(replica)

        def probabilities(features: dict[str, Any], mask: dict[str, Any]) -> Any:
            return calibrated_probabilities(
                self._apply, model, jnp.float32(temperature), unlabelled_batch(features, mask)
            )

        return probabilities

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(calibrated_probabilities, self._apply))

    @functools.cached_property
    def _explained(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(attribution_lib.attribute, self._apply))

    def predict(
        self,
        inputs: Any,
        *,
        sentence: str | None = None,
        replica: int | str | None = None,
        attribution: bool = False,
        batch_size: int = 64,
        extractors: EncoderClient | None = None,
        **how: Any,
    ) -> Iterator[Prediction]:
        """Predictions in the order of the inputs, as they are ready; memory does not grow with their number.

        inputs: a path or several (see `inputs.items_of`, which takes `how`), a dict of arrays by modality ([time, feat]), or an
        iterable of `inputs.Item`. sentence: what is said in the one clip. attribution: why, for one replica. extractors: to
        use again what encodes clips; else it is started where it is needed. Raises UserError for what cannot be read at all;
        one bad input among others becomes a Prediction with an `error`.
        """
        replicas = self.which(replica)
        if attribution and len(replicas) > 1:
            raise UserError("attribution is of one model: give one replica")
        items = items_of(inputs, self, sentence=sentence, extractors=extractors, **how)
        checked = (self.checked(item) for item in items)
        batch_size += -batch_size % self._mesh.shape["data"]
        for window in windows(checked, WINDOW_BATCHES * batch_size):
            yield from self._window(window, replicas, attribution, batch_size)

    def _window(
        self, window: Sequence[Item], replicas: list[int], attribution: bool, batch_size: int
    ) -> Iterator[Prediction]:
        good = [i for i, item in enumerate(window) if not item.error]
        good.sort(key=lambda i: sum(len(x) for x in window[i].features.values()))
        running = []
        for at in range(0, len(good), batch_size):
            members = good[at : at + batch_size]
            batch = sharding.device_put_global(
                self._batch([window[i] for i in members]), sharding.batch_sharding(self._mesh)
            )
            found = [self._compiled(self.model(r), np.float32(self.temperature(r)), batch) for r in replicas]
            why = self._explained(self.model(replicas[0]), batch) if attribution else None
            running.append((members, found, why))
        done: dict[int, Prediction] = {}
        for members, found, why in running:
            probabilities = np.mean(jax.device_get(found), axis=0)
            told = jax.device_get(why)
            for row, i in enumerate(members):
                reason = None if told is None else _attribution(told, row, window[i], int(probabilities[row].argmax()))
                done[i] = self._prediction(window[i], probabilities[row], reason)
        for i, item in enumerate(window):
            yield done[i] if i in done else self._prediction(item, None, None)

    def _prediction(self, item: Item, p: Any, why: Attribution | None) -> Prediction:
        about = {
            name: getattr(item, name) for name in ("id", "label", "sentence", "start", "end", "notes", "error", "words")
        }
        if p is None:
            return Prediction(prediction="", probabilities={}, **about)
        return Prediction(
            prediction=self.labels[int(p.argmax())],
            probabilities={name: float(v) for name, v in zip(self.labels, p, strict=True)},
            attribution=why,
            **about,
        )

    def checked(self, item: Item) -> Item:
        """The item with the features that the models read, cut to length and with finite values; or with its `error`."""
        if item.error:
            return item
        settings, notes, features = self.config.data, list(item.notes), {}
        for m, limit in self._limits.items():
            spec = self.modalities[m]
            value = item.features.get(m)
            if value is None or not len(value):
                continue
            if isinstance(value, EncodedFrames) != ("pixels" in spec):
                return dataclasses.replace(
                    item, error=f"{m}: the model reads {'frames' if 'pixels' in spec else 'features'}"
                )
            if not isinstance(value, EncodedFrames):
                value = np.asarray(value)
                if value.ndim != 2 or value.shape[1] != spec["width"]:
                    wrong = f"{m} is {list(value.shape)}; the model reads [time, {spec['width']}], made by {spec['extractor']}"
                    return dataclasses.replace(item, error=wrong)
            if len(value) > limit:
                notes.append(f"{m}: {len(value)} time steps, the first {limit} of which are read (data.max_length)")
                value = value[:limit]
            if not isinstance(value, EncodedFrames) and not np.isfinite(value).all():
                if settings.nonfinite == "refuse":
                    return dataclasses.replace(item, error=f"{m} holds NaN or infinite values; repair the features")
                notes.append(f"{m}: {np.count_nonzero(~np.isfinite(value))} values that are not finite are set to 0")
                value = np.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
            features[m] = value
        if not features:
            return dataclasses.replace(
                item, error=f"it has none of {', '.join(self.modalities)}, which the model reads"
            )
        if missing := [m for m in self.modalities if m not in features]:
            notes.append(f"predicted without {' and '.join(missing)}")
        try:
            seen = {
                m: self._view.of(x) if self._view and isinstance(x, EncodedFrames) else x for m, x in features.items()
            }
        except ValueError as error:
            return dataclasses.replace(item, error=str(error))
        return dataclasses.replace(item, features=seen, notes=tuple(notes))

    def _batch(self, items: Sequence[Item]) -> Batch:
        """As many rows as the next power of two, of items and of nothing; NumPy arrays."""
        rows = self._mesh.shape["data"]
        while rows < len(items):
            rows *= 2
        features, mask = {}, {}
        for m in self.modalities:
            values = [item.features.get(m, ()) for item in items]
            steps = loader.bucket_length(max(map(len, values)))
            shape, dtype = self.step_of(m)
            features[m] = np.zeros((rows, steps, *shape), dtype)
            mask[m] = np.zeros((rows, steps), bool)
            for i, value in enumerate(values):
                if len(value):
                    features[m][i, : len(value)], mask[m][i, : len(value)] = value, True
        weight = (np.arange(rows) < len(items)).astype(np.float32)
        return Batch(features, mask, {}, weight)


def windows(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """So many items at a time, fewer where they come slowly."""
    window: list[Item] = []
    began = time.monotonic()
    for item in items:
        window.append(item)
        if len(window) == most or time.monotonic() - began > MAX_WAIT_SECONDS:
            yield window
            window, began = [], time.monotonic()
    if window:
        yield window


def _attribution(found: attribution_lib.BatchAttribution, row: int, item: Item, predicted: int) -> Attribution:
    length = {m: len(x) for m, x in item.features.items()}
    kept = into = None
    if found.kept is not None and "visual" in length:
        kept, into = (x[row][: length["visual"]] for x in found.kept)
        if kept.ndim == 1:  # of the clip's frames
            kept = found.kept.place[row][found.kept.place[row] < length["visual"]]
            into = np.minimum(into, len(kept))  # what is dropped, whatever the clip was padded to
    return Attribution(
        shapley={m: float(x[row, predicted]) for m, x in found.shapley.items()},
        evidence={m: x[row, : length[m]] for m, x in found.evidence.items() if m in length},
        attention={m: x[row][..., : length[m]] for m, x in found.attention.items() if m in length},
        kept=kept,
        into=into,
    )


def load(run: epath.PathLike) -> Predictor:
    """The models of a finished run, from its workdir. Raises UserError, saying what to do, if they cannot be had."""
    run = epath.Path(run)
    if not run.is_dir():
        raise UserError(f"{run} does not exist; give the workdir of a finished run, such as runs/lsgmer")
    known = {name: read_json_or_none(run / name) for name in ("config.json", "metrics.json")}
    if known["config.json"] is None:
        raise UserError(f"{run} holds no run: it has no config.json")
    if known["metrics.json"] is None:
        raise UserError(f"{run} holds an unfinished run; the command that began it carries it on to the end")
    about, metrics = known["config.json"], known["metrics.json"]
    written = about.get("versions", {}).get("mer_jax", "unknown")
    try:
        config = config_lib.validate(family_lib.from_dict(about["config"]))
        points, sha256 = metrics["points"], about["data"]["manifest_sha256"]
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{run} was written by mer_jax {written}, whose runs this version cannot read ({error}); use that version, or train again"
        ) from None
    manifest = _manifest(run, config, sha256, written)
    sharding.start(files.cache_folder() / "xla")
    info, best = checkpoint.best_models(run / "checkpoints")
    if info["data"]["manifest_sha256"] != sha256 or not any(point["chosen"] for point in points):
        raise UserError(
            f"{run}: the checkpoint is of other data than config.json; bring back the file that belongs to it"
        )
    return Predictor(config, manifest, metrics, best, str(run))


def _manifest(run: epath.Path, config: config_lib.Experiment, sha256: str, written: str) -> Manifest:
    path = run / "manifest.json"
    if not path.exists() and config.data.path and (Path(config.data.path) / "manifest.json").is_file():
        path = epath.Path(config.data.path) / "manifest.json"  # of runs from before 0.8
    if not path.exists():
        raise UserError(
            f"{run} has no manifest.json (it was written by mer_jax {written}; they do since 0.8): copy the one of its corpus there"
        )
    found = Manifest(path.read_text(), str(path))
    if found.manifest_sha256 != sha256:
        raise UserError(
            f"{path} is not the manifest that the run was trained with (sha256 {sha256[:12]}…); bring that back"
        )
    return found
