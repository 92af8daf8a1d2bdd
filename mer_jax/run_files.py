"""What the files of a workdir hold, of any task, as types of `schema.check`; the task checks the rest of metrics.json.
A score may be missing: the run may be older than the score."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from mer_jax.schema import Above0, Count, Finite, Positive, Share, Text

LayerNumber = Annotated[str, Meta(pattern="^[0-9]{1,4}$")]  # a hidden layer of an encoder


class MeanSd(TypedDict):
    mean: Finite | None
    sd: Finite | None


class Interval(TypedDict):
    low: Finite
    high: Finite


# ---- config.json, split.json ----


class DataSettings(TypedDict):
    modalities: NotRequired[list[str]]


class Settings(TypedDict):
    """What is read before the config is one of its family, which checks every field."""

    family: NotRequired[Text]
    experiment: NotRequired[str]
    data: NotRequired[DataSettings]
    loss: NotRequired[dict[str, Any]]


class DataIdentity(TypedDict):
    """And the sha256 of every file that the config names."""

    manifest_sha256: str


class RunIdentity(TypedDict):
    config: Settings
    data: DataIdentity
    versions: NotRequired[dict[str, str]]


class FoldIds(TypedDict):
    name: str
    valid: list[str]
    test: list[str]


class SplitIds(TypedDict):
    folds: list[FoldIds]


# ---- metrics.json ----


class Part(TypedDict):
    utterances: Count


class FoldParts(TypedDict):
    train: Part
    valid: Part
    test: Part


class ContextHeard(TypedDict):
    hears: str
    in_words: str
    test_turns_beside_training: Count


class EncoderExposure(TypedDict):
    """What the encoder of a modality has seen of the corpus; parts: on whose labels it was trained, where known."""

    modality: Text
    encoder: str
    what: Literal["tuned", "pretrained", "none", "unknown"]
    parts: list[str]
    in_words: str


class SpeakerNorm(TypedDict):
    """own: of every fold the names that have statistics of their own."""

    kind: Literal["train", "own", "session"]
    names: list[str]
    own: dict[str, list[str]]
    by_own: Count
    in_words: str


class ProtocolUsed(TypedDict):
    name: str
    title: str
    description: str
    leaky: str
    split_sha256: str
    leakage: list[str]
    contamination: NotRequired[list[EncoderExposure]]  # since 0.12
    context: NotRequired[ContextHeard]
    speaker_norm: NotRequired[SpeakerNorm]  # where data.speaker_norm is not none
    selection: str
    selects_on: str
    test: str
    locked: NotRequired[bool]  # nothing is known of the test part yet; runs from before 0.11 were never locked
    test_looks: NotRequired[Count | None]  # with the one that scored it; None: not known; before 0.11: not counted


class Unread(TypedDict):
    limit: Positive
    steps: Count
    total: Count
    utterances: Count
    share: Share
    steps_per_second: NotRequired[Above0]


class DataUsed(TypedDict):
    name: str
    manifest_sha256: str
    counts: dict[str, FoldParts]
    bayes_accuracy: NotRequired[Finite | None]
    bayes_scores: NotRequired[dict[str, Finite]]  # by score, of the first target
    unread: NotRequired[dict[str, Unread]]
    problems: NotRequired[list[str]]


class Ensemble(TypedDict):
    """And of every score an `EnsembleScore`."""

    members: Positive


class EnsembleScore(TypedDict):
    value: Finite
    low: NotRequired[Finite]
    high: NotRequired[Finite]


class TurnGroup(TypedDict):
    """Of turns that stand alike in their dialogues."""

    utterances: Count
    scores: dict[str, MeanSd]


class ByTurn(TypedDict):
    """A group without an utterance is missing."""

    shifts: NotRequired[TurnGroup]
    rest: NotRequired[TurnGroup]
    first: NotRequired[TurnGroup]
    positions: dict[str, TurnGroup]


class GroupScore(Part):
    dialogues: Count
    value: Finite  # of the main score, the mean over the seeds
    low: NotRequired[Finite]
    high: NotRequired[Finite]


class OtherGroups(Part):
    """All that are not named, together; scored where they are not small."""

    groups: Count
    dialogues: NotRequired[Count]
    value: NotRequired[Finite]
    low: NotRequired[Finite]
    high: NotRequired[Finite]


class GroupGap(TypedDict):
    highest: str
    lowest: str
    difference: Finite
    low: NotRequired[Finite]
    high: NotRequired[Finite]
    shared_dialogues: Count


class Grouping(TypedDict):
    groups: dict[str, GroupScore]
    others: OtherGroups
    unknown: Count
    gap: NotRequired[GroupGap]


class Point(TypedDict):
    values: dict[str, Finite]
    chosen: bool
    by_fold: NotRequired[dict[str, Count]]  # of replicas.choose=fold: which point every fold took
    replicas: Count
    diverged: Count
    valid: dict[str, MeanSd]
    test: NotRequired[dict[str, MeanSd]]  # unless the test part is locked
    dialogues: NotRequired[Count]
    interval: NotRequired[dict[str, Interval]]
    ensemble: NotRequired[Ensemble]
    conversation: NotRequired[ByTurn]  # of corpora with dialogues, since 0.11
    groups: NotRequired[dict[str, Grouping]]  # of the chosen point, where any are known, since 0.13
    layer_weights: NotRequired[dict[str, dict[LayerNumber, MeanSd]]]  # of model.layer_mix=learned


class ReplicaResult(TypedDict):
    name: Text
    fold: str
    seed: Count
    point: Count
    status: Literal["finished", "diverged"]
    step: Count | None
    layer_weights: NotRequired[dict[str, dict[LayerNumber, Share]]]


class CheckpointDigest(TypedDict):
    step: Count
    sha256: str


class Metrics(TypedDict):
    task: NotRequired[str]
    checkpoint: NotRequired[CheckpointDigest]
    protocol: ProtocolUsed
    data: DataUsed
    points: list[Point]
    replicas: list[ReplicaResult]
    config: Settings
    versions: dict[str, str]


# ---- beside it ----


class Evaluated(TypedDict):
    """A line of history.jsonl; a loss may be NaN."""

    epoch: Count
    step: Count
    replica: str
    valid: dict[str, float]


class Session(TypedDict):
    began: Text
    from_step: Count
    to_step: Count
    seconds: Finite
    devices: Positive
    kind: str
    platform: str
    processes: Positive
    hosts: list[str]
    cpus: Count | None
    peak_memory_bytes: Count | None


class Cost(TypedDict):
    sessions: list[Session]


class UtteranceMap(TypedDict):
    replica: str
    method: str
    ids: list[str]
    x: list[Finite]
    y: list[Finite]
    explained: NotRequired[tuple[Finite, Finite] | None]


class Shares(TypedDict):
    modalities: list[str]
    per_class: dict[str, dict[str, Finite]]


class Frames(TypedDict):
    kept: list[Count]
    merged: list[tuple[Count, Count]]
    dropped: list[Count]


class Mistake(TypedDict):
    id: str
    label: str
    prediction: str
    explained: NotRequired[str]  # the output that modalities and steps speak for; before 0.13 the prediction
    probability: NotRequired[Share]
    sentence: NotRequired[str | None]
    modalities: dict[str, Finite]
    top_steps: NotRequired[dict[str, list[tuple[Count, Finite]]] | None]
    frames: NotRequired[Frames | None]


class InfluentialTurn(TypedDict):
    """influence: what the output that is explained loses if the turn is not heard."""

    id: str
    turn: int
    influence: Finite


class TurnExplained(TypedDict):
    """Without a prediction where the turn is heard and not tested; without a class the label is ""."""

    id: str
    turn: int
    speaker: str
    label: str
    sentence: NotRequired[str | None]
    shift: bool
    prediction: NotRequired[str]
    probability: NotRequired[Share]
    wrong: NotRequired[bool]
    influence: list[InfluentialTurn]


class ConversationExplained(TypedDict):
    dialogue: str
    dialogue_turns: Count
    turns: list[TurnExplained]


class PathGap(TypedDict):
    in_words: str


class Explained(TypedDict):
    replica: str
    utterances_used: Count
    shares: Shares
    mistakes: list[Mistake]
    integrated_gradients: NotRequired[PathGap | None]
    conversations: NotRequired[list[ConversationExplained]]  # of runs that hear other turns


Scored = tuple[Finite | None, Finite | None]  # mean and sd


class Curve(TypedDict):
    """And of every score a list[Scored], one for each place."""

    rates: NotRequired[list[Finite]]
    sigmas: NotRequired[list[Finite]]


class Effective(TypedDict):
    beside: str
    missing: NotRequired[dict[str, dict[str, Finite | None]]]
    noise: NotRequired[dict[str, dict[str, Finite | None]]]


class Definition(TypedDict):
    """What each figure is, in words."""

    missing: str
    noise: str
    floor: NotRequired[str]
    retention: NotRequired[str]
    effective: NotRequired[str]


class Robustness(TypedDict):
    definition: Definition
    replicas: list[str]
    missing: NotRequired[dict[str, Curve]]
    noise: dict[str, Curve]
    floor: dict[str, Scored]
    effective: NotRequired[Effective | None]
    retention: NotRequired[dict[str, dict[str, dict[str, Finite | None]]] | None]


class RobustnessBeside(TypedDict):
    """What is read of another run's, with what the two must have in common."""

    missing: dict[str, Curve]
    noise: dict[str, Curve]

    name: str
    protocol: str
    manifest_sha256: str
    split_sha256: str
    seed: int


# Files that a run may have.
OPTIONAL_FILES: dict[str, Any] = {
    "map": UtteranceMap,
    "cost": Cost,
    "explain": Explained,
    "robustness": Robustness,
}
