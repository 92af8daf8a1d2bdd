"""Feature packs in exactly the community's layouts, with random vectors."""

import pickle

import numpy as np

SIX = (648, 1084, 1708, 1103, 1041, 1849)  # the community's IEMOCAP
SEVEN = (6436, 1636, 358, 1002, 2308, 361, 1607)  # MELD, all parts, in DialogueRNN's order
LAYERS = ("text1", "text2", "text3", "text4")


def labels_of(counts, rng):
    return rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()


def fields_of(corpus, widths, counts, dialogues, rng):
    """{field: dict of dialogue -> list}, and {(dialogue, turn): {field: vector}}."""
    labels = labels_of(counts, rng)
    cuts = np.sort(rng.choice(np.arange(1, len(labels)), dialogues - 1, replace=False))
    of_dialogue = [part.tolist() for part in np.split(np.array(labels), cuts)]
    names = [
        f"Ses{1 + 5 * i // dialogues:02d}{'FM'[i % 2]}_impro{i:03d}" if corpus == "iemocap" else i
        for i in range(dialogues)
    ]
    fields = {"labels": dict(zip(names, of_dialogue, strict=True))}
    lengths = {name: len(x) for name, x in fields["labels"].items()}
    each = lambda make: {name: [make(name, t) for t in range(n)] for name, n in lengths.items()}  # noqa: E731
    for field, width in widths.items():
        fields[field] = each(lambda name, t, width=width: rng.normal(size=width).astype(np.float32))
    letter = lambda name, t: "FM"[t % 2]  # noqa: E731
    if corpus == "iemocap":
        fields["ids"] = each(lambda name, t: f"{name}_{letter(name, t)}{t:03d}")
        fields["speakers"] = each(letter)
    else:
        fields["ids"] = each(lambda name, t: str(t))
        fields["speakers"] = each(lambda name, t: np.eye(9, dtype=np.int64)[t % 9].tolist())
        fields["sentiments"] = each(lambda name, t: t % 3)
    fields["sentences"] = each(lambda name, t: f"It’s sentence {t} of {name}.")
    fields["_"] = None
    fifth = len(names) // 5
    parts = {"test": names[-fifth:], "valid": names[:fifth], "train": names[fifth:-fifth]}
    return fields, parts, lengths


def write(path, order, corpus, widths, counts, dialogues=40, seed=0, protocol=2):
    """A tuple of the fields in `order`; parts are sets where the layout has no validation part, else lists. Returns the
    vectors, by (dialogue's name in the corpus, turn)."""
    rng = np.random.default_rng(seed)
    fields, parts, lengths = fields_of(corpus, widths, counts, dialogues, rng)
    if "valid" not in order:
        parts = {"train": set(parts["train"]) | set(parts["valid"]), "test": set(parts["test"])}
    path.write_bytes(pickle.dumps(tuple((fields | parts)[field] for field in order.split()), protocol))
    name = lambda d: d if isinstance(d, str) else f"dia{d}"  # noqa: E731
    wanted = {}
    for d, n in lengths.items():
        for t in range(n):
            vectors = {field: fields[field][d][t] for field in widths}
            if LAYERS[0] in vectors:
                vectors["text"] = np.concatenate([vectors.pop(layer) for layer in LAYERS])
            wanted[name(d), t] = vectors
    return wanted


def write_mmsa(path, counts=(30, 20, 10), seed=0):
    """Sequences with their lengths, zeros behind. Returns the real steps by id."""
    rng = np.random.default_rng(seed)
    found, wanted = {}, {}
    for part, count in zip(("train", "valid", "test"), counts, strict=True):
        lengths = {m: rng.integers(1, 9, count) for m in ("audio", "vision")}
        fields = {
            "raw_text": [f"sentence {i}" for i in range(count)],
            "id": [f"{part}video{i // 3}$_${i % 3}" for i in range(count)],
            "text": rng.normal(size=(count, 8, 12)).astype(np.float32),
            "annotations": [("Negative", "Neutral", "Positive")[i % 3] for i in range(count)],
            "classification_labels": np.arange(count) % 3 * 1.0,
            "regression_labels": rng.normal(size=count),
        }
        fields["text_bert"] = np.ones((count, 3, 8), np.float32)
        for i in range(count):
            fields["text_bert"][i, 1, int(rng.integers(1, 9)) :] = 0
        for m, width in (("audio", 5), ("vision", 20)):
            fields[m] = rng.normal(size=(count, 8, width)).astype(np.float32)
            for i in range(count):
                fields[m][i, lengths[m][i] :] = 0
            fields[f"{m}_lengths"] = lengths[m].tolist()
        found[part] = fields
        for i, name in enumerate(fields["id"]):
            steps = int(fields["text_bert"][i, 1].sum())
            wanted[name] = {
                "text": fields["text"][i, :steps],
                "audio": fields["audio"][i, : lengths["audio"][i]],
                "visual": fields["vision"][i, : lengths["vision"][i]],
            }
    path.write_bytes(pickle.dumps(found))
    return wanted


def write_deepmsi(folder, count=20, seed=0):
    """A pickle per utterance and modality. Returns the vectors by the utterance's id."""
    rng = np.random.default_rng(seed)
    wanted = {}
    for i in range(3 * count):
        part = ("train", "val", "test")[i % 3]
        name = f"Ses0{1 + i % 5}F_impro{i // 5:02d}_{'FM'[i % 2]}{i:03d}"
        vectors = {"text": rng.normal(size=16), "audio": rng.normal(size=24), "visual": rng.normal(size=(15, 32))}
        vectors = {m: x.astype(np.float32) for m, x in vectors.items()}
        for kind, fields in (
            ("text", {"text_feature": vectors["text"], "label": i % 6}),
            ("audio", {"audio_feature": vectors["audio"]}),
            ("video", {"images": vectors["visual"]}),
        ):
            target = folder / part / kind / f"{name}.pkl"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(pickle.dumps(fields))
        wanted[name] = vectors
    return wanted


class Words:
    """A text encoder that needs no weights."""

    identity, extractor, axis = {"name": "letters"}, "letters", ()

    def states(self, sentences):
        return [np.frombuffer(s.encode()[:4].ljust(4), np.uint8)[None].astype(np.float16) for s in sentences]

    def words(self, words):
        return np.concatenate(self.states(words)).astype(np.float32)
