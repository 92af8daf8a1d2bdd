"""Several targets at once, such as classes together with valence, arousal and dominance: one model, whose outputs are
those of the parts side by side. No JAX at import."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.metrics.metric import Metric
from mer_jax.settings import LossSettings
from mer_jax.tasks import several_results
from mer_jax.tasks.several_told import Told
from mer_jax.tasks.task import Arrays, Evaluation, Task


class Several(Told):
    """parts: the tasks, the first one leading: its scores keep their names, those of the others begin with their
    target's. What belongs to part i is called `i/NAME` in targets and evaluations. Decisions are what is predicted,
    [rows, width]; counts are those of the parts, flat, one behind the other."""

    name: ClassVar[str] = "several"
    floor_in_words: ClassVar[str] = "one answer for all"

    def __init__(self, parts: Sequence[Task]):
        self.parts = tuple(parts)
        self.asked = "+".join(part.asked for part in parts)
        first, *others = self.parts
        self.outputs = (*first.outputs, *(f"{part.asked} {name}" for part in others for name in part.outputs))
        ends = np.cumsum([0, *(part.width for part in parts)]).tolist()
        self.slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.shapes = [part.count(nothing_of(part), np.zeros((0, *_decided(part)), int)).shape for part in parts]
        sizes = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)]).tolist()
        self._places = [slice(a, b) for a, b in itertools.pairwise(sizes)]
        self.metrics = self._named(self._metrics())
        divergent = [part for part in self.parts if not part.no_divergence]
        self.right_or_wrong = self.parts[0].right_or_wrong
        self.no_divergence = "" if divergent else self.parts[0].no_divergence
        self.no_members = next((part.no_members for part in self.parts if part.no_members), "")
        self.nearly = frozenset(f"{self.start(i)}{name}" for i, part in enumerate(self.parts) for name in part.nearly)
        self.takes = ("task_weights", *{name for part in self.parts for name in part.takes})

    def _metrics(self) -> Iterator[tuple[str, Metric]]:
        for i, part in enumerate(self.parts):
            for name, metric in part.metrics.items():
                title, short = (f"{part.asked} {words}" if i else words for words in (metric.title, metric.short))
                function = self._of_part(metric.function, i)
                named = dataclasses.replace(metric, title=title, short=short, function=function)
                yield f"{self.start(i)}{name}", named

    def _named(self, found: Iterable[tuple[str, Metric]]) -> dict[str, Metric]:
        """The scores by their names. Raises UserError for a name that two have, as `ccc_ccc`: of a number called ccc,
        and the CCC of a target called ccc."""
        metrics: dict[str, Metric] = {}
        for name, metric in found:
            if name in metrics:
                raise UserError(
                    f"--config.data.task={self.asked}: {metrics[name].title!r} and {metric.title!r} are both called "
                    f"{name}; give the target or the number another name in the corpus, or ask for them one by one"
                )
            metrics[name] = metric
        return metrics

    def _of_part(self, function: Callable[[Any], Any], i: int) -> Callable[[Any], Any]:
        place, shape = self._places[i], self.shapes[i]
        return lambda counts: function(counts[..., place].reshape(*counts.shape[:-1], *shape))

    @classmethod
    def of_results(cls, metrics: Mapping[str, Any], part_of: Callable[[Mapping[str, Any]], Task]) -> "Several":
        """The task of a finished run. part_of: makes the task of a part. Raises ValueError if parts are not told."""
        parts = metrics.get("parts")
        if not isinstance(parts, list) or len(parts) < 2 or not all(isinstance(one, dict) for one in parts):
            raise ValueError("field 'parts': it must tell the two or more tasks that the run has")
        return cls([part_of(one) for one in parts])

    def describe(self) -> dict[str, Any]:
        return {"parts": [{"task": part.name, **part.describe()} for part in self.parts]}

    def check_results(self, metrics: Mapping[str, Any]) -> None:
        for part in self.parts:
            part.check_results(several_results.of_part(metrics, part.asked))

    @property
    def headline(self) -> list[str]:
        """Those of the first part, and of each other the one that leads."""
        first, *others = self.parts
        return [*first.headline, *(f"{part.asked}_{part.main_metric}" for part in others)]

    def targets(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for i, part in enumerate(self.parts):
            has = corpus.has(part.asked)[rows]
            found |= self.whole(i, part.targets(corpus, rows[has], soft=soft), has)
        return found

    def describe_targets(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """`parts`: what each part says."""
        found = {}
        for i, part in enumerate(self.parts):
            own, has = self.own_rows(targets, i)
            found[part.asked] = part.describe_targets(own) | {"utterances": int(has.sum())}
        return {"parts": found}

    def gaps(self, described: Mapping[str, Any]) -> str:
        return "; ".join(filter(None, (part.gaps(described["parts"][part.asked]) for part in self.parts)))

    def training_note(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> str:
        notes = []
        for part in self.parts:
            own = rows[corpus.has(part.asked)[rows]]
            if len(own) < len(rows):
                notes.append(f"{part.asked} is known of {len(own):,} of {len(rows):,} training utterances")
            notes.append(part.training_note(corpus, own, soft=soft))
        return "; ".join(note for note in notes if note)

    def refuse_parts(self, corpus: Corpus, parts: Mapping[str, np.ndarray]) -> None:
        for part in self.parts:
            own = {name: rows[corpus.has(part.asked)[rows]] for name, rows in parts.items()}
            for name, rows in own.items():
                if not len(rows):
                    raise UserError(f"{corpus.path}: no utterance of {name} has target {part.asked!r}")
            part.refuse_parts(corpus, own)

    def refuse_settings(self, settings: Any) -> None:
        super().refuse_settings(settings)
        for part in self.parts:
            others = {name: getattr(LossSettings, name) for name in self.takes if name not in part.takes}
            part.refuse_settings(dataclasses.replace(settings, **others))
        if settings.task_weights and len(settings.task_weights) != len(self.parts):
            raise UserError(
                f"--config.loss.task_weights={settings.task_weights}: must be one number for each of {self.asked}, as "
                f"in ({','.join(['1.0'] * len(self.parts))})"
            )
        if not all(0 <= weight < math.inf for weight in settings.task_weights) or (
            settings.task_weights and not any(settings.task_weights)
        ):
            raise UserError(
                f"--config.loss.task_weights={settings.task_weights}: must be finite, at least 0, and one above it"
            )

    def refuse_soft(self, corpus: Corpus, settings: Any, *, soft: bool) -> None:
        for part in self.parts:
            part.refuse_soft(corpus, settings, soft=soft)

    def label_words(self, manifest: Any) -> np.ndarray:
        return np.concatenate([part.label_words(manifest) for part in self.parts])

    def raters(self, corpus: Corpus, rows: np.ndarray) -> Any:
        return [part.raters(corpus, rows[corpus.has(part.asked)[rows]]) for part in self.parts]

    def prior(self, targets: Mapping[str, np.ndarray]) -> Any:
        """By the number of each part what its loss needs to know."""
        return {str(i): part.prior(self.own_rows(targets, i)[0]) for i, part in enumerate(self.parts)}

    def loss(self, values: Any, targets: Arrays, weight: Any, *, prior: Any, settings: Any) -> Any:
        """The sum of the parts' losses, each times its share of `loss.task_weights`, which are scaled to sum to 1."""
        weights = np.array(settings.task_weights or [1.0] * len(self.parts))
        total = 0.0
        for i, (part, share) in enumerate(zip(self.parts, weights / weights.sum(), strict=True)):
            own, has = self.parted(targets, i)
            counted = self._counted(weight, has)
            of = part.loss(values[:, self.slices[i]], own, counted, prior=prior[str(i)], settings=settings)
            total = total + float(share) * of
        return total

    @staticmethod
    def _counted(weight: Any, has: Any) -> Any:
        import jax.numpy as jnp

        return jnp.where(has, weight, 0)

    def divergence(self, values: Any, similarity: Any) -> Any:
        """The mean over the parts that are distributions."""
        each = [
            part.divergence(values[:, here], similarity[:, here])
            for part, here in zip(self.parts, self.slices, strict=True)
            if not part.no_divergence
        ]
        return sum(each) / len(each)

    def distance(self, teacher: Any, values: Any) -> Any:
        """The mean over the parts."""
        each = [
            part.distance(teacher[:, here], values[:, here]) for part, here in zip(self.parts, self.slices, strict=True)
        ]
        return sum(each) / len(each)

    def similar(self, targets: Arrays) -> Any:
        """By the first part; rows that do not have it are like no others."""
        own, has = self.parted(targets, 0)
        return self.parts[0].similar(own) & has[:, None] & has[None]

    def members(self, targets: Arrays) -> Any:
        import jax.numpy as jnp

        found = []
        for i, part in enumerate(self.parts):
            own, has = self.parted(targets, i)
            found.append(jnp.where(has[:, None], part.members(own), 0))
        return jnp.concatenate(found, -1)

    def degrees(self, targets: Arrays) -> tuple[Any, Any]:
        import jax.numpy as jnp

        found, known = [], []
        for i, part in enumerate(self.parts):
            own, has = self.parted(targets, i)
            degrees, told = part.degrees(own)
            found.append(degrees)
            known.append(told & has[:, None])
        return jnp.concatenate(found, -1), jnp.concatenate(known, -1)

    def evaluate(self, values: Any, targets: Arrays, weight: Any) -> Evaluation:
        """Of part i what it evaluates, and `i/share`, the rows that have it."""
        import jax.numpy as jnp

        found = Evaluation({}, {}, {})
        predicted = []
        for i, part in enumerate(self.parts):
            own, has = self.parted(targets, i)
            counted = self._counted(weight, has)
            one = part.evaluate(values[:, self.slices[i]], own, counted)
            predicted.append(one.rows.pop("predicted"))
            found.means |= {f"{i}/{name}": value for name, value in one.means.items()} | {f"{i}/share": counted.sum()}
            found.counts |= {f"{i}/{name}": value for name, value in one.counts.items()}
            found.rows |= {f"{i}/{name}": value for name, value in one.rows.items()}
        found.means["loss"] = sum(found.means[f"{i}/loss"] for i in range(len(self.parts)))
        found.rows["predicted"] = jnp.concatenate(predicted, -1)
        return found

    def decide(self, values: Any) -> Any:
        return self.calibrate(values, np.ones(len(self.parts), np.float32))

    def calibrate(self, values: Any, temperature: Any) -> Any:
        """temperature: one for each part."""
        import jax.numpy as jnp

        each = [part.calibrate(values[:, self.slices[i]], temperature[i]) for i, part in enumerate(self.parts)]
        return jnp.concatenate(each, -1)

    def logits(self, values: Any) -> Any:
        import jax.numpy as jnp

        each = (part.logits(values[:, here]) for part, here in zip(self.parts, self.slices, strict=True))
        return jnp.concatenate([*each], -1)

    def explained(self, logits: Any) -> Any:
        """What the first part explains."""
        import jax.numpy as jnp

        first = self.parts[0].explained(logits[:, self.slices[0]])
        return jnp.pad(first, ((0, 0), (0, self.width - first.shape[1])))

    def explained_output(self, predicted: np.ndarray) -> np.ndarray:
        return self.parts[0].explained_output(predicted[:, self.slices[0]])

    def score(self, evaluated: Mapping[str, Any]) -> dict[str, Any]:
        """And `parts`, by target what each part says of the rows that have it. loss: the sum of theirs."""
        found, parts = {"loss": 0.0}, {}
        for i, part in enumerate(self.parts):
            own = self.of_part(evaluated, i) | {"predicted": evaluated["predicted"][:, self.slices[i]]}
            own["loss"] = own["loss"] / own.pop("share")
            parts[part.asked] = part.score(own)
            found["loss"] += parts[part.asked]["loss"]
            found |= {f"{self.start(i)}{name}": parts[part.asked][name] for name in part.metrics}
        return found | {"parts": parts}

    def analyse(
        self, valid: Mapping[str, Any], test: Mapping[str, Any] | None, truth: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`parts`: by target what each part says."""
        found = {}
        for i, part in enumerate(self.parts):
            own, has = self.own_rows(truth["valid"], i)
            known: dict[str, Any] = {"valid": own}
            known |= {name: truth[name][has] for name in ("dialogues", "knowing") if name in truth}
            tested_by: dict[str, Any] | None = None
            if test is not None:
                known["test"], tested = self.own_rows(truth["test"], i)
                known["raters"] = truth["raters"][i]
                tested_by = {"predicted": test["predicted"][tested][:, self.slices[i]]}
            validated_by = {"predicted": valid["predicted"][has][:, self.slices[i]]}
            found[part.asked] = part.analyse(validated_by, tested_by, known)
        return {"parts": found}

    def count(self, targets: Mapping[str, np.ndarray], decisions: np.ndarray) -> np.ndarray:
        found = []
        for i, part in enumerate(self.parts):
            own, has = self.own_rows(targets, i)
            found.append(part.count(own, part.decisions(decisions[has][:, self.slices[i]])).ravel())
        return np.concatenate(found).astype(np.float64)

    def count_by_dialogue(
        self, targets: Mapping[str, np.ndarray], decisions: np.ndarray, dialogues: np.ndarray
    ) -> np.ndarray:
        names, number = np.unique(dialogues, return_inverse=True)
        members = (number == i for i in range(len(names)))
        return np.stack([self.count({name: v[of] for name, v in targets.items()}, decisions[of]) for of in members])

    def floor(self, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> np.ndarray:
        each = [part.floor(self.own_rows(train, i)[0], self.own_rows(test, i)[0]) for i, part in enumerate(self.parts)]
        return np.concatenate([counts.ravel() for counts in each]).astype(np.float64)

    def pool(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`parts`: by target what each part says; `pooled` of them."""
        found = {
            part.asked: part.pool([several_results.of_replica(one, part.asked) for one in results])
            for part in self.parts
        }
        pooled = {"pooled": {"parts": {name: one["pooled"] for name, one in found.items() if "pooled" in one}}}
        return {"parts": found} | (pooled if pooled["pooled"]["parts"] else {})

    def describe_ensemble(
        self, counts: np.ndarray, predicted: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        found = {}
        for i, part in enumerate(self.parts):
            own, has = self.own_rows(targets, i)
            of = counts[self._places[i]].reshape(self.shapes[i])
            found[part.asked] = part.describe_ensemble(of, predicted[has][:, self.slices[i]], own)
        return {"parts": found}

    def print_part(self, title: str, scores: Mapping[str, Any]) -> None:
        for part in self.parts:
            part.print_part(f"{part.asked}: {title}", scores["parts"][part.asked])

    def print_analysis(self, point: Mapping[str, Any], selects_on: str) -> None:
        for part in self.parts:
            part.print_analysis(point["parts"][part.asked], selects_on)

    def decisions(self, predicted: np.ndarray) -> np.ndarray:
        return predicted

    def mistakes(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Those of the first part."""
        own, has = self.own_rows(targets, 0)
        return np.flatnonzero(has)[self.parts[0].mistakes(predicted[has][:, self.slices[0]], own)]

    def temperature_of(self, result: Mapping[str, Any]) -> Any:
        return [part.temperature_of(several_results.of_replica(result, part.asked)) for part in self.parts]


def nothing_of(task: Task) -> dict[str, np.ndarray]:
    """The targets of no utterance."""
    return task.read_targets([])


def _decided(task: Task) -> tuple[int, ...]:
    return task.decisions(np.zeros((0, task.width))).shape[1:]
