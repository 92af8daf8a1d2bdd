"""What may happen to a corpus folder: each damages one and returns what must be said of it."""

import json


def damage_flipped_bit(folder):
    path = folder / "train-00001.tfrecord"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    return "train-00001.tfrecord, record"


def damage_truncated(folder):
    path = folder / "test-00000.tfrecord"
    path.write_bytes(path.read_bytes()[:-7])
    return "test-00000.tfrecord has"


def damage_missing_shard(folder):
    (folder / "train-00000.tfrecord").unlink()
    return "train-00000.tfrecord is missing"


def damage_missing_index(folder):
    (folder / "valid-00000.index.npz").unlink()
    return "valid-00000.index.npz is missing"


def damage_index(folder):
    path = folder / "valid-00000.index.npz"
    raw = bytearray(path.read_bytes())
    raw[-300] ^= 1
    path.write_bytes(raw)
    return "valid-00000.index.npz is damaged"


def damage_version(folder):
    _edit(folder, lambda m: m.update(schema_version=7))
    return "schema_version is 7"


def damage_tokens(folder):
    _edit(folder, lambda m: m["modalities"]["text"].update(tokens=4))
    return "text is 6 wide and has 4 tokens a step"


def damage_label(folder):
    _edit(folder, lambda m: m["labels"].__setitem__(1, "content"))
    return "label 'glad' is not in the manifest's list"


def damage_field(folder):
    _edit(folder, lambda m: m.pop("labels"))
    return "field 'labels' is missing"


def damage_json(folder):
    (folder / "manifest.json").write_text("{")
    return "manifest.json is not valid JSON"


def damage_no_manifest(folder):
    (folder / "manifest.json").unlink()
    return "has no manifest.json"


def _edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


DAMAGES = [f for name, f in sorted(globals().items()) if name.startswith("damage_")]
