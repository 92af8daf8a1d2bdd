"""The raw corpora are TFDS builders: one example a turn, everything but the recordings, which stay where they are and
are named by path.

    config = tfds.download.DownloadConfig(manual_dir=FOLDER)
    IemocapRaw(data_dir=…).download_and_prepare(download_config=config, file_format="array_record")

TFDS writes array_record without TensorFlow; its tfrecord needs it. Numbers come back as float32, text as bytes. The
known issues that the folder has are in `builder.info.metadata["traps"]`.
"""

import abc
import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format

from data_prep.raw import iemocap_reader, meld_reader
from data_prep.raw.turns import Turn
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError
from mer_jax.files import sha256_of

TEXTS = ("id", "split", "dialogue", "speaker", "session", "label", "sentence", "sound", "film")
NUMBERS = ("values", "spreads")  # by name


class Raw(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A corpus whose folder the user gives as manual_dir. `reader` has read(folder) and sources(folder)."""

    VERSION = tfds.core.Version("1.1.0")  # of the examples: a change of what is read from the same folder needs another
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder as its authors distribute it, unpacked"
    code_path = Path(__file__)  # TFDS would ask importlib_resources, which it does not declare
    reader: ModuleType
    homepage: str
    citation: str

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.reader.__doc__,
            homepage=self.homepage,
            citation=self.citation,
            features=tfds.features.FeaturesDict(
                {
                    **{name: text for name in TEXTS},
                    "turn": np.int32,
                    "start": np.float32,
                    "end": np.float32,
                    "votes": tfds.features.Sequence({"rater": text, "label": text}),
                    **{field: tfds.features.Sequence({"name": text, "number": np.float32}) for field in NUMBERS},
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        corpus = self.reader.read(Path(dl_manager.manual_dir))
        self.info.metadata["traps"] = corpus.issues.found
        parts = {self.part(turn): None for turn in corpus.turns}
        return {part: self._generate_examples([t for t in corpus.turns if self.part(t) == part]) for part in parts}

    def _generate_examples(self, turns: list[Turn]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, turn in enumerate(turns):
            votes = [{"rater": rater, "label": label} for rater, label in turn.votes]
            named = {field: [{"name": n, "number": x} for n, x in getattr(turn, field).items()] for field in NUMBERS}
            yield number, vars(turn) | {"votes": votes} | named

    @abc.abstractmethod
    def part(self, turn: Turn) -> str:
        """Returns the TFDS split of a turn."""


class IemocapRaw(Raw):
    """Its splits are its sessions: it has no official parts."""

    reader = iemocap_reader
    homepage = "https://sail.usc.edu/iemocap/"
    citation = "Busso et al., IEMOCAP: interactive emotional dyadic motion capture database, 2008"

    def part(self, turn: Turn) -> str:
        return turn.session


class MeldRaw(Raw):
    reader = meld_reader
    homepage = "https://affective-meld.github.io"
    citation = "Poria et al., MELD: a multimodal multi-party dataset for emotion recognition in conversations, ACL 2019"

    def part(self, turn: Turn) -> str:
        return turn.split


BUILDERS: dict[str, type[Raw]] = {"iemocap": IemocapRaw, "meld": MeldRaw}


def fingerprint(corpus: str, folder: Path) -> str:
    """Returns a sha256 of the annotations, the recordings' names, and the code that reads them."""
    reader = BUILDERS[corpus].reader
    texts, media = reader.sources(folder)
    lines = [f"{sha256_of(path)} {path.relative_to(folder)}" for path in texts]
    lines += [str(path.relative_to(folder)) for path in media]
    return hashlib.sha256("\n".join([sha256_of(Path(str(reader.__file__))), *lines]).encode()).hexdigest()


def prepared(corpus: str, folder: Path, data_dir: Path) -> tuple[list[Turn], dict[str, list[str]], str]:
    """Returns the turns, the known issues, and the fingerprint of a folder. TFDS prepares each state of the folder
    once."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    mark = fingerprint(corpus, folder)
    place = data_dir / mark[:16]
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS's own account of it
            place.mkdir(parents=True, exist_ok=True)
            builder = BUILDERS[corpus](data_dir=str(place))
            config = tfds.download.DownloadConfig(manual_dir=str(folder))
            builder.download_and_prepare(download_config=config, file_format="array_record")
        turns = list(_turns(builder))
        issues = {name: list(ids) for name, ids in builder.info.metadata["traps"].items()}
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, json_format.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{place} is damaged or cannot be written ({reason}); "
            "delete it and give the same command again, or another --tfds"
        ) from None
    print(f"TFDS dataset {builder.info.full_name}: {len(turns):,} turns, {builder.data_dir}")
    return turns, issues, mark


def _turns(builder: Raw) -> Iterator[Turn]:
    for part in sorted(builder.info.splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else 0, name)):
        source = builder.as_data_source(split=part)
        for row in range(len(source)):
            yield _turn(source[row])


def _turn(example: dict[str, Any]) -> Turn:
    votes = example["votes"]
    pairs = tuple((r.decode(), w.decode()) for r, w in zip(votes["rater"], votes["label"], strict=True))
    texts = {name: example[name].decode() for name in TEXTS}
    start, end = float(example["start"]), float(example["end"])
    named: dict[str, Any] = {
        field: {n.decode(): float(x) for n, x in zip(of["name"], of["number"], strict=True)}
        for field in NUMBERS
        for of in [example[field]]
    }
    return Turn(**texts, turn=int(example["turn"]), start=start, end=end, votes=pairs, **named)
