"""What people want predictions of -> items with features: corpora, shards, packs, clips with what is said in them,
sentences.

Clips and sentences are encoded by `encoder_client`; a pack goes through `python -m data_prep.pack_stream`. No JAX and
no PyTorch here.
"""

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax import text_files
from mer_jax.data import records
from mer_jax.data.corpus import Corpus, Manifest, encoder_of, hub_name
from mer_jax.data.dialogues import heard_with
from mer_jax.data.frames import EncodedFrames
from mer_jax.errors import UserError
from mer_jax.plain import brief, cause
from mer_jax.predict.encoder_client import EncoderClient, EncoderLocations, EncodersUnavailable, ModelSpec, item_of
from mer_jax.predict.item import PLACE, InputOptions, Item, check_place
from mer_jax.predict.requests import MEDIA, requests_of
from mer_jax.text_files import is_blank, plain, seconds, whole_number

PACKS = (".pkl", ".pickle", ".p", ".pk", ".pt", ".pth", ".npz", ".npy", ".h5", ".hdf5", ".parquet", ".tsv")
PICKLES = "*/*/*.pkl"  # of DeepMSI-MER's folders
# A folder is a "corpus", if it has a manifest.json, a "pack", if it has such pickles, or a "folder" of clips.
KINDS = {
    "clip": MEDIA,
    "pack": PACKS,
    "table": (".csv",),
    "transcript": (".srt", ".vtt"),
    "list of sentences": (".txt",),
    "shard": (".tfrecord",),
}
LARGEST = 1e300  # of a number that is an id
NO_OPTIONS = InputOptions()


def kind_of(path: Path, options: InputOptions = NO_OPTIONS) -> str:
    """What a path is: one of `KINDS`. A .csv of features, which takes a mapping, is a pack. Raises UserError if it is
    nothing that can be read."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    suffix = path.suffix.lower()
    if path.is_dir():
        if (path / "manifest.json").exists():
            return "corpus"
        return "pack" if next(path.glob(PICKLES), None) else "folder"
    if suffix == ".csv" and any(flag.startswith("--mapping") for flag in options.pack):
        return "pack"
    found = next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), None)
    if found is None:
        raise UserError(
            f"{path}: what to do with a {suffix or 'file without an ending'} is not known; clips end in "
            f"{', '.join(MEDIA)}, packs in {', '.join(PACKS)}, tables in .csv, transcripts in .srt and .vtt, "
            "sentences in .txt, shards of a corpus in .tfrecord"
        )
    return found


def check_flags_apply(inputs: Sequence[Any], options: InputOptions) -> None:
    """Raises UserError for a path that cannot be read, and for what is asked for and of no use with these inputs."""
    paths = [Path(one) for one in inputs if isinstance(one, str | os.PathLike)]
    kinds = {path: kind_of(path, options) for path in paths}
    sentence, text, window = options.sentence, options.transcript, options.window
    if sentence is not None and text is not None:
        raise UserError("a sentence (--sentence) or a transcript, not both")
    if (sentence is not None or text is not None) and (len(inputs) > 1 or list(kinds.values()) != ["clip"]):
        raise UserError("a sentence (--sentence) or transcript is of one clip; give that alone")
    if sentence is not None and window:
        raise UserError("a sentence is of a whole clip, not of its windows: give an .srt or .vtt, or --asr")
    if options.hop and not window:
        raise UserError("--hop is from one --window to the next: give that, too")
    if window and (whole := next((path for path in paths if kinds[path] not in ("clip", "folder")), None)):
        raise UserError(f"--window cuts clips, and folders of them; {whole} is a {kinds[whole]}")
    other = next((path for path in paths if kinds[path] not in ("corpus", "shard", "pack")), None)
    if options.only is not None and other:
        raise UserError(f"only some utterances (--only-test) are taken of a corpus; {other} is a {kinds[other]}")
    if options.pack and "pack" not in kinds.values():
        raise UserError("--labels, --layout and --mapping are of a pack; there is none")
    if text is not None and not text.exists():
        raise UserError(f"{text} does not exist")


def items_of(
    inputs: Any, model: ModelSpec, options: InputOptions | None = None, encoders: EncoderClient | None = None
) -> Iterator[Item]:
    """The items of what `Predictor.predict` takes, one after the other.

    A path is a corpus folder; a .tfrecord of one; a pack; a clip, with what is said in it in a file of the same name
    (.srt, .vtt, .txt) or in the options; an .srt, .vtt or .txt without a clip; a .csv with the columns `file`,
    `sentence` (one may be missing), `id`, `start`, `end`, `dialogue`, `turn`, `speaker`; a folder of clips. A
    transcript without a clip is a conversation, a turn a line, and so is a clip whose transcript says who speaks; but a
    .txt in which nobody is named is a list of sentences. encoders: what encodes clips, to be used again; otherwise they
    are started where they are needed, and ended. Raises UserError.
    """
    options = options or InputOptions()
    if isinstance(inputs, Mapping):
        yield of_arrays(0, inputs, options.sentence or "")
        return
    if isinstance(inputs, str | os.PathLike):
        inputs = [inputs]
    if isinstance(inputs, bytes) or not isinstance(inputs, Iterable):
        raise UserError(f"the input is {brief(inputs)}, not a path, a dict of arrays, or several of these")
    alone = False
    if isinstance(inputs, Sequence):  # what comes one after the other is not known yet
        check_flags_apply(inputs, options)
        alone = len(inputs) == 1
    with contextlib.nullcontext(encoders) if encoders else EncoderClient(model) as client:
        for i, one in enumerate(inputs):
            if isinstance(one, Item):
                yield _checked(one)
            elif isinstance(one, Mapping):
                yield of_arrays(i, one)
            elif not isinstance(one, str | os.PathLike):
                wrong = f"input {i} is {brief(one)}, not a path, a dict of arrays or an Item"
                if alone:
                    raise UserError(wrong)
                yield Item(str(i), error=wrong)
            else:
                try:
                    yield from _of_path(Path(one), model, options, client)
                except EncodersUnavailable:
                    raise
                except UserError as error:  # it must not cost the others
                    if alone:
                        raise
                    yield Item(str(one), error=str(error))


def _checked(item: Item) -> Item:
    try:
        check_place(f"item {brief(item.id)}", item.dialogue, item.turn)
    except UserError as error:
        return dataclasses.replace(item, error=item.error or str(error))
    return item


def of_arrays(position: int, given: Mapping[str, Any], sentence: str = "") -> Item:
    """An utterance as a dict: features by modality, [time, width] or one vector, and what is said of it by the names of
    `Item`. Any other field is left alone; what cannot be read is its error, which leaves its place in a dialogue."""
    name, field = str(position), "id"
    features: dict[str, Any] = {}
    said: dict[str, Any] = {"sentence": sentence}
    error = ""
    try:
        name = _text("an utterance", "id", given.get("id"), numbers=True) or name
        where = f"utterance {brief(name)}"
        for field, x in sorted(given.items(), key=lambda one: one[0] not in PLACE):  # which an error leaves
            if field in ("start", "end"):
                said[field] = seconds(where, field, x)
            elif field in ("sentence", "label"):
                said[field] = _text(where, field, x, numbers=field == "label")
            elif field in ("dialogue", "speaker"):
                said[field] = text_files.name(where, field, x)
            elif field == "turn":
                said[field] = None if is_blank(plain(where, field, x)) else whole_number(where, field, x)
            elif isinstance(x, EncodedFrames):
                features[field] = x
            elif field != "id" and x is not None:
                value = np.asarray(x)
                features[field] = value[None] if value.ndim == 1 else value
        check_place(where, said.get("dialogue", ""), said.get("turn"))
    except UserError as wrong:
        error = str(wrong)
    except Exception as wrong:  # of whatever class the value has: it must not cost the others
        error = f"{field[:60] if isinstance(field, str) else brief(field)}: {cause(wrong)}"
    if error:
        return Item(name, error=error, **{field: said[field] for field in PLACE if field in said})
    return Item(name, features, **said)


def _text(where: str, field: str, value: Any, *, numbers: bool = False) -> str:
    """The text that a value is, alone in an array or as bytes, too; "" for None and NaN. Raises UserError for anything
    else."""
    value = plain(where, field, value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return str(value)
    if numbers and isinstance(value, int | float) and abs(value) < LARGEST:
        return str(int(value) if value == int(value) else value)
    raise UserError(f"{where}: the {field} is {brief(value)}, not a {'name or number' if numbers else 'text'}")


def _of_path(path: Path, model: ModelSpec, options: InputOptions, encoders: EncoderClient) -> Iterator[Item]:
    kind = kind_of(path, options)
    if kind in ("corpus", "shard"):
        yield from of_corpus(path, model, options)
    elif kind == "pack":
        yield from of_pack(path, model, options, encoders.locations)
    else:
        for requests in requests_of(path, kind, options, encoders):
            yield from encoders.items(requests)


def of_corpus(path: Path, model: ModelSpec, options: InputOptions) -> Iterator[Item]:
    """A corpus's utterances, or those of one of its shards."""
    corpus = Corpus(path if path.is_dir() else path.parent)
    if not options.any_extractor:
        check_same_extractors(corpus.path, corpus.manifest, model)
    asked = np.ones(len(corpus), bool)
    if not path.is_dir():
        shards = [shard["file"] for shard in corpus.manifest["shards"]]
        if path.name not in shards:
            raise UserError(f"{path} is not a shard of the corpus beside it, whose manifest lists {', '.join(shards)}")
        asked = corpus.shard == shards.index(path.name)
    index, rows = corpus.index, np.flatnonzero(asked)
    if options.only is not None:
        asked &= np.isin(index["id"], sorted(set(options.only)))
        if not len(rows := np.flatnonzero(asked)):
            raise UserError(f"{path} holds none of the utterances asked for")
    if options.by_dialogue:
        rows = heard_with(corpus, rows)
        rows = rows[_by_dialogue(index["dialogue"][rows], index["turn"][rows])]
    dialogues, sizes = np.unique(index["dialogue"], return_counts=True)
    single = (index["dialogue"] == index["id"]) & (sizes[np.searchsorted(dialogues, index["dialogue"])] == 1)
    for row in rows.tolist():
        name, dialogue, speaker = (str(index[field][row]) for field in ("id", "dialogue", "speaker"))
        place: dict[str, Any] = {"speaker": speaker, "asked": bool(asked[row])}
        if not single[row]:  # as utterances without a dialogue are written
            place |= {"dialogue": dialogue, "turn": int(index["turn"][row])}
        try:
            found = corpus[row]
        except UserError as error:
            yield Item(name, error=str(error), **place)
            continue
        features = {m: x for m, x in found.features.items() if m in model.modalities}
        yield Item(name, features, found.sentence, found.label, found.values, found.start, found.end, **place)


def _by_dialogue(dialogue: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Positions dialogue by dialogue, in the order in which these begin, and there by turn."""
    _, first, which = np.unique(dialogue, return_index=True, return_inverse=True)
    return np.lexsort((turn, first[which]))


def check_same_extractors(where: Path, made: Mapping[str, Any], model: ModelSpec) -> None:
    """Raises UserError if features were `made`, as a manifest says, by other extractors or weights than the run's."""
    for m, spec in model.modalities.items():
        if m not in made["modalities"]:
            continue
        have, want = made["modalities"][m]["extractor"], spec["extractor"]
        if have == want:
            have, want = (weights_of(manifest, m) for manifest in (made, model.manifest.manifest))
        if have and want and have != want:
            raise UserError(
                f"{where}: its {m} features were made by {have!r}, the run's by {want!r}: the model "
                "would not understand them. Make them alike, or force it with --any-extractor"
            )


def weights_of(manifest: Mapping[str, Any], modality: str) -> str:
    """The sha256 of the modality's encoder; nothing where the manifest does not say."""
    sha256 = encoder_of(manifest, modality).get("weights_sha256")
    return f"weights of sha256 {sha256}" if sha256 else ""


def pack_encoder_flags(manifest: Manifest, locations: EncoderLocations) -> list[str]:
    """Flags of the import, so that sentences without features go through the run's own text encoder; none if the run
    has none, or one from a folder of which nobody says where it is."""
    identity = manifest.encoder("text")
    if not identity or not (place := locations.text or hub_name(identity)):
        return []
    layers = "mean" if identity.get("averaged") else ",".join(map(str, identity["layers"]))
    pool = "none" if identity["pooling"] == "tokens" else identity["pooling"]
    return [
        f"--text-encoder={place}",
        f"--text-layers={layers}",
        *["--text-layers-apart"] * identity.get("apart", False),
        f"--text-pool={pool}",
        *(f"--precision={precision}" for precision in [identity.get("precision")] if precision),
        f"--device={locations.device}",
    ]


def of_pack(path: Path, model: ModelSpec, options: InputOptions, locations: EncoderLocations) -> Iterator[Item]:
    """A feature pack's utterances, through a process whose own messages go to stderr; it reads a pack whole."""
    flags = [*pack_encoder_flags(model.manifest, locations), *locations.limit_flags(), *options.pack]
    flags += ["--by-dialogue"] * options.by_dialogue
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, "-m", "data_prep.pack_stream", str(path), "--records", file.name, *flags]
        done = subprocess.run(command, stdout=sys.stderr)
        first = records.read_record(file)
        hello = {} if first is None else records.decode_example(first)
        if done.returncode or "hello" not in hello:
            raise UserError(f"{path} could not be read; what `python -m data_prep.pack_stream` says is above")
        if not options.any_extractor:
            check_same_extractors(path, json.loads(bytes(hello["hello"][0])), model)
        only, found = None if options.only is None else set(options.only), False
        while (record := records.read_record(file)) is not None:
            item = item_of(record, model.modalities)
            if only is None or item.id in only:
                found = True
                yield item
            elif options.by_dialogue and item.dialogue:
                yield dataclasses.replace(item, asked=False)
        if not found:
            raise UserError(f"{path} holds none of the utterances asked for")
