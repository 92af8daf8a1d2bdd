"""A finished run as something to use, once `loading.load` has read its workdir. It needs neither the corpus nor the
optimiser's state."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.data.batch import AnyBatch, Batch, NextTurn, pad_rows
from mer_jax.data.corpus import Manifest
from mer_jax.data.frames import EncodedFrames, View
from mer_jax.data.length_limits import as_time, steps_per_second
from mer_jax.data.pool import zero_nonfinite
from mer_jax.errors import UserError
from mer_jax.evaluation.attribution import BatchAttribution, attribute
from mer_jax.evaluation.path_integral import COMPLETE
from mer_jax.evaluation.score_table import replicas_of_choice
from mer_jax.predict import conversations
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.inputs import items_of
from mer_jax.predict.item import InputOptions, Item
from mer_jax.predict.known_speakers import KnownSpeakers
from mer_jax.predict.prediction import Attribution, Prediction, empty_output
from mer_jax.runtime import sharding
from mer_jax.tasks import Task, task_of
from mer_jax.training import step
from mer_jax.training.compiled import model_of

INCOMPLETE = f"evidence: it misses more than {100 * COMPLETE:g} % of the change of the logit; gap says how much"
WINDOW_BATCHES = 4  # batches whose items are sorted by length among themselves
MAX_WAIT_SECONDS = 1.0  # seconds to wait for more items before those at hand are predicted


class Predictor:
    """The best models of a finished run, one for every replica that finished.

    task, family: what is predicted, and by what kind of model. modalities: what each reads, as in the corpus's
    manifest. metrics: metrics.json. replicas: their names. workdir: of the run.
    """

    def __init__(
        self,
        config: config_lib.Experiment,
        manifest: Manifest,
        metrics: Mapping[str, Any],
        best_models: Any,
        workdir: str = "",
    ):
        self.config, self.manifest, self.metrics, self.workdir = config, manifest, metrics, workdir
        self.task = task_of(manifest)
        self.modalities = {m: manifest.modalities[m] for m in config.data.modalities}
        self.replicas = [replica["name"] for replica in metrics["replicas"]]
        self.family, self.functions = model_of(config, manifest, self.task)
        self._best_models = best_models
        self.speakers = KnownSpeakers(metrics["protocol"].get("speaker_norm"))
        self._max_lengths = config_lib.max_lengths(config.data, manifest.manifest)
        frames = config.frame_augmentation()
        self._view = None if frames is None else View(**vars(frames))
        self._mesh = sharding.make_mesh()
        self._no_output = empty_output(self.task.describe_prediction(np.zeros(self.task.width)))

    def step_spec(self, modality: str) -> tuple[tuple[int, ...], Any]:
        """(shape, dtype) of a time step as the models read it."""
        spec = self.modalities[modality]
        if self._view and "pixels" in spec:
            return (self._view.size, self._view.size, 3), np.uint8
        return (spec["width"],), np.float32

    def chosen_replicas(self) -> list[int]:
        """The finished replicas of the sweep point that validation chose, or of every fold's own."""
        chosen = replicas_of_choice(self.metrics["points"], self.metrics["replicas"])
        return [i for i in chosen if self.metrics["replicas"][i]["status"] == "finished"]

    def select_replicas(self, replica: int | str | None) -> list[int]:
        """None: the first of `chosen_replicas`; "all": all of these; else a replica by number or name. Raises UserError
        for another."""
        if replica is None:
            return self.chosen_replicas()[:1]
        if replica == "all":
            return self.chosen_replicas()
        found = [i for i, name in enumerate(self.replicas) if replica in (i, str(i), name)]
        if not found or self.metrics["replicas"][found[0]]["status"] != "finished":
            raise UserError(
                f"replica {replica!r}: {self.workdir} has all, or one of the finished among 0 to "
                f"{len(self.replicas) - 1}: {', '.join(self.replicas)}"
            )
        return found[:1]

    def temperature(self, replica: int) -> Any:
        """What the task calibrates by, fitted on the replica's validation part."""
        return self.task.temperature_of(self.metrics["replicas"][replica])

    def describe_calibration(self, replica: int) -> str:
        """How the replica's predictions are calibrated, in words."""
        selects_on = self.metrics["protocol"]["selects_on"]
        return self.task.describe_calibration(self.metrics["replicas"][replica], selects_on)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as its models
    def model(self, replica: int) -> step.EvalState:
        """The replica's model on the devices."""
        one = jax.tree.map(lambda x: x[replica], self._best_models)
        return sharding.device_put_global(step.EvalState(**one), sharding.replicated(self._mesh))

    def forward(self, replica: int = 0) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
        """A pure function of (features[m]: Float[batch, time, feat], mask[m]: Bool[batch, time]), as they come from a
        corpus, that gives the calibrated outputs, Float[batch, width]; any batch and any time."""
        model, temperature = self.model(replica), jnp.float32(self.temperature(replica))

        def outputs(features: dict[str, Any], mask: dict[str, Any]) -> Any:
            batch = unlabelled_batch(features, mask)
            return calibrated_outputs(model, temperature, batch, apply=self.functions.apply, task=self.task)

        return outputs

    @functools.cached_property
    def _compiled_outputs(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(calibrated_outputs, apply=self.functions.apply, task=self.task))

    @functools.cached_property
    def _compiled_attribution(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(attribute, self.functions.apply, task=self.task, family=self.family))

    def predict(
        self,
        inputs: Any,
        *,
        replica: int | str | None = None,
        attribution: bool = False,
        batch_size: int = 64,
        encoders: EncoderClient | None = None,
        **options: Any,
    ) -> Iterator[Prediction]:
        """Predictions in the order of the inputs, as they are ready; memory does not grow with their number.

        inputs: a path or several (see `inputs.items_of`), a dict of arrays by modality ([time, feat]), or an iterable
        of `item.Item`. attribution: why, for one replica. encoders: what encodes clips, to be used again; otherwise
        they are started where they are needed. options: `sentence` and the others of `item.InputOptions`. Raises
        UserError for what cannot be read at all; one bad input among others becomes a Prediction with an `error`.
        """
        replicas = self.select_replicas(replica)
        if attribution and len(replicas) > 1:
            raise UserError("attribution is of one model: give one replica")
        how = InputOptions(**options | {"by_dialogue": self.hears})
        prepared = (self.prepare(item, replicas) for item in items_of(inputs, self, how, encoders))
        batch_size += -batch_size % self.row_shards
        several = conversations.conversations(prepared) if self.hears else ([item] for item in prepared)
        for window in windows(several, WINDOW_BATCHES * batch_size):
            yield from self._predict_window(window, replicas, attribution, batch_size)

    @property
    def hears(self) -> bool:
        """Whether the models hear the other turns of a dialogue."""
        return self.config.data.context != "none"

    def _batches(self, window: Sequence[Sequence[Item]], batch_size: int) -> Iterator[tuple[Any, np.ndarray, Any]]:
        """Batches of the window's items; the item that is predicted by each row, by its position among all, or -1; of
        dialogues the `ConversationBatch`."""
        if self.hears:
            for found in conversations.batches(self, window, batch_size):
                yield found.batch, found.items, found
            return
        items = [item for [item] in window]
        good = [i for i, item in enumerate(items) if not item.error]
        good.sort(key=lambda i: sum(len(x) for x in items[i].features.values()))
        for at in range(0, len(good), batch_size):
            members = good[at : at + batch_size]
            yield self.batch_of([items[i] for i in members]), np.array(members), None

    def _predict_window(
        self, window: Sequence[Sequence[Item]], replicas: list[int], attribution: bool, batch_size: int
    ) -> Iterator[Prediction]:
        running = []
        for batch, members, together in self._batches(window, batch_size):
            outputs = [self._compiled_outputs(self.model(r), np.float32(self.temperature(r)), batch) for r in replicas]
            why = self._compiled_attribution(self.model(replicas[0]), batch) if attribution else None
            running.append((members, together, outputs, why))
        done: dict[int, Prediction] = {}
        items = [item for conversation in window for item in conversation]
        for members, together, outputs, why in running:
            predicted, found = np.mean(jax.device_get(outputs), axis=0), jax.device_get(why)
            explained = self.task.explained_output(predicted)
            for row, i in enumerate(members.tolist()):
                if i < 0:
                    continue
                reason = None if found is None else attribution_of(found, row, items[i], int(explained[row]))
                if reason is not None and together is not None:
                    turns = conversations.turns_heard(together, items, found.turns, row)
                    reason = dataclasses.replace(reason, turns=turns)
                done[i] = self._prediction(items[i], self.task.describe_prediction(predicted[row]), reason)
        for i, item in enumerate(items):
            if item.asked:
                yield done[i] if i in done else self._prediction(item, self._no_output, None)

    def conversation(
        self, replica: int | str | None = None, encoders: EncoderClient | None = None
    ) -> conversations.Conversation:
        """A conversation turn by turn: see `conversations.Conversation`. Raises UserError unless the run hears the past
        alone."""
        return conversations.Conversation(self, replica, encoders)

    def next_turn(self, replica: int, turn: NextTurn) -> tuple[Any, Any]:
        """What is predicted of the turn, Float[1, width], and what the model keeps of the conversation."""
        return self._compiled_turn(self.model(replica), np.float32(self.temperature(replica)), turn)

    @functools.cached_property
    def _compiled_turn(self) -> Callable[..., Any]:
        def predicted(model: step.EvalState, temperature: Any, turn: NextTurn) -> tuple[Any, Any]:
            outputs, _ = self.functions.apply(
                model.params, model.model_state, step.standardize(turn, model.input_stats)
            )
            return self.task.calibrate(outputs["logits"], temperature), outputs["memory"]

        return jax.jit(predicted)

    def _prediction(self, item: Item, output: Mapping[str, Any], why: Attribution | None) -> Prediction:
        about = item.about()
        if why is not None and why.gap is not None and not why.gap < COMPLETE:
            about["notes"] = (*item.notes, INCOMPLETE)
        return Prediction(output=output, attribution=why, **about)

    def prepare(self, item: Item, replicas: Sequence[int] = ()) -> Item:
        """The item with the features that the models read, cut to length and with finite values; or with its `error`.
        replicas: those that predict it; the notes say so where one of them does not know the speaker."""
        if item.error:
            return item
        notes, features = list(item.notes), {}
        try:
            for m in self.modalities:
                value = item.features.get(m)
                if value is not None and (getattr(value, "shape", None) == () or len(value)):
                    features[m] = self._readable(m, value, notes)
        except ValueError as error:
            return dataclasses.replace(item, error=str(error))
        if not features:
            wanted = ", ".join(self.modalities)
            return dataclasses.replace(item, error=f"it has none of {wanted}, which the model reads")
        if missing := [m for m in self.modalities if m not in features]:
            notes.append(f"predicted without {' and '.join(missing)}")
        if note := self.speakers.note(item.speaker, [self.metrics["replicas"][r]["fold"] for r in replicas]):
            notes.append(note)
        return dataclasses.replace(item, features=features, notes=tuple(notes))

    def _readable(self, modality: str, value: Any, notes: list[str]) -> Any:
        """A modality's features as the models read them; what is done to them goes to the notes. Raises ValueError for
        those that cannot be read."""
        spec, limit = self.modalities[modality], self._max_lengths[modality]
        frames = isinstance(value, EncodedFrames)
        if frames != ("pixels" in spec):
            raise ValueError(f"{modality}: the model reads {'features' if frames else 'frames'}")
        if not frames:
            value = np.asarray(value)
            if value.ndim != 2 or value.shape[1] != spec["width"]:
                wanted = f"[time, {spec['width']}], made by {spec['extractor']}"
                raise ValueError(f"{modality} is {list(value.shape)}; the model reads {wanted}")
            if value.dtype.kind not in "fiub":
                raise ValueError(f"{modality} is an array of {value.dtype}, not of numbers")
        if len(value) > limit:
            rate = steps_per_second(self.manifest.manifest, modality)
            whole, read = as_time(len(value), rate), as_time(limit, rate)
            notes.append(f"{modality}: {whole}, the first {read} of which are read (data.max_length)")
            value = value[:limit]
        if frames:
            return self._view.apply(value) if self._view else value
        try:
            value, count = zero_nonfinite(value, self.config.data.nonfinite)
        except ValueError:
            raise ValueError(f"{modality} holds NaN or infinite values; repair the features") from None
        if count:
            notes.append(f"{modality}: {count} values that are not finite are set to 0")
        return value

    def batch_of(self, items: Sequence[Item]) -> Batch:
        """Prepared items on the devices: as many rows as the next power of two, of items and of nothing."""
        rows = self.row_shards
        while rows < len(items):
            rows *= 2
        found: Batch = self.on_devices(self.host_batch(items, rows))
        return found

    def host_batch(self, items: Sequence[Item], rows: int) -> Batch:
        """Prepared items as a batch of so many rows, NumPy arrays."""
        features, mask = {}, {}
        for m in self.modalities:
            values = [item.features.get(m, ()) for item in items]
            steps = loader.bucket_length(max(map(len, values)))
            shape, dtype = self.step_spec(m)
            features[m], mask[m] = pad_rows(values, rows, steps, shape, dtype)
        return Batch(
            features,
            mask,
            {},
            (np.arange(rows) < len(items)).astype(np.float32),
            norm_group=self.speakers.groups([item.speaker for item in items], rows),
        )

    def on_devices(self, batch: Any) -> Any:
        """The batch on the devices, which share its rows."""
        return sharding.device_put_global(batch, sharding.batch_sharding(self._mesh))

    @property
    def row_shards(self) -> int:
        """Among how many devices the rows of a batch are shared."""
        return int(self._mesh.shape["data"])


def unlabelled_batch(features: dict[str, Any], mask: dict[str, Any]) -> Batch:
    """A batch of utterances whose targets are not known."""
    size = next(iter(mask.values())).shape[0]  # len() takes no symbol
    return Batch(features, mask, {}, jnp.ones((size,)))


def calibrated_outputs(
    model: step.EvalState, temperature: Any, batch: AnyBatch, *, apply: Callable[..., Any], task: Task
) -> Any:
    """What the task predicts of every row, Float[batch, width]. The batch is as it was read, not standardised."""
    outputs, _ = apply(model.params, model.model_state, step.standardize(batch, model.input_stats))
    return task.calibrate(outputs["logits"], temperature)


def windows(conversations: Iterable[list[Item]], size: int) -> Iterator[list[list[Item]]]:
    """Conversations of so many items or more together at a time, fewer where they come slowly."""
    window: list[list[Item]] = []
    began = time.monotonic()
    for conversation in conversations:
        window.append(conversation)
        if sum(map(len, window)) >= size or time.monotonic() - began > MAX_WAIT_SECONDS:
            yield window
            window, began = [], time.monotonic()
    if window:
        yield window


def attribution_of(found: BatchAttribution, row: int, item: Item, explained: int) -> Attribution:
    """One row's part of a batch's attribution. explained: the output whose Shapley values are told."""
    length = {m: len(x) for m, x in item.features.items()}
    kept = into = None
    if found.kept is not None and "visual" in length:
        kept, into = (x[row][: length["visual"]] for x in found.kept)
        if kept.ndim == 1:  # of the clip's frames
            kept = found.kept.place[row][found.kept.place[row] < length["visual"]]
            into = np.minimum(into, len(kept))  # what is dropped, whatever the clip was padded to
    gradients = found.integrated_gradients
    return Attribution(
        shapley={m: float(x[row, explained]) for m, x in found.shapley.items()},
        integrated_gradients={m: x[row, : length[m]] for m, x in gradients.items() if m in length},
        attention={m: x[row][..., : length[m]] for m, x in found.attention.items() if m in length},
        kept=kept,
        into=into,
        gap=None if found.gap is None else float(found.gap[row]),
    )
