"""What is finished is not encoded again, and comes out with the same bits."""

from types import SimpleNamespace

import numpy as np
import pytest
from recordings import needs_prep

from data_prep.encoders import feature_cache
from mer_jax.errors import UserError


class Doubler:
    """An encoder whose features depend, like real ones, on what is encoded together."""

    extractor, batch_size = "doubles", 4

    def __init__(self, bad=()):
        self.identity, self.bad, self.prepared, self.encoded = {"name": "doubler"}, bad, [], []

    def prepare(self, source):
        self.prepared.append(source)
        if source in self.bad:
            raise UserError(f"{source} is broken")
        return source

    def encode(self, prepared):
        self.encoded.append(list(prepared))
        return [np.full((1, 2), 2 * value + sum(prepared) / 1024, np.float16) for value in prepared]


SOURCES = {f"k{i}": i for i in range(10)}


def test_what_is_finished_is_not_done_again(tmp_path):
    first = Doubler(bad=[9])
    with pytest.raises(UserError, match="9 is broken"):
        feature_cache.extract(first, SOURCES, tmp_path, "audio")
    assert first.encoded == [[0, 1, 2, 3], [4, 5, 6, 7]]
    second = Doubler()
    kept = feature_cache.extract(second, SOURCES, tmp_path, "audio")
    assert second.encoded == [[8, 9]]
    fresh = feature_cache.extract(Doubler(), SOURCES, tmp_path / "other", "audio")
    for key in SOURCES:
        np.testing.assert_array_equal(kept[key], fresh[key])
    third = Doubler()
    feature_cache.extract(third, SOURCES, tmp_path, "audio")
    assert third.prepared == []


def test_broken_sources_are_left_out_if_told_to(tmp_path):
    broken: dict[str, str] = {}
    encoder = Doubler(bad=[2, 9])
    kept = feature_cache.extract(encoder, SOURCES, tmp_path, "audio", broken)
    assert broken == {"k2": "2 is broken", "k9": "9 is broken"}
    assert encoder.encoded == [[0, 1, 3], [4, 5, 6, 7], [8]]
    assert [key in kept for key in ("k1", "k2", "k9")] == [True, False, False]


def test_a_damaged_cache_file_is_made_again(tmp_path, capsys):
    feature_cache.extract(Doubler(), SOURCES, tmp_path, "audio")
    path = sorted(tmp_path.rglob("*.npz"))[0]
    path.write_bytes(path.read_bytes()[:-30])
    encoder = Doubler()
    feature_cache.extract(encoder, SOURCES, tmp_path, "audio")
    assert len(encoder.encoded) == 1
    assert f"{path} is damaged and will be made again" in capsys.readouterr().err


def test_another_identity_has_features_of_its_own(tmp_path):
    feature_cache.extract(Doubler(), SOURCES, tmp_path, "audio")
    other = Doubler()
    other.identity = {"name": "doubler", "every": 2}
    feature_cache.extract(other, SOURCES, tmp_path, "audio")
    assert len(other.encoded) == 3


def test_what_is_counted_is_kept(tmp_path):
    class Counter(Doubler):
        def tally(self, prepared):
            return prepared, 10

    with pytest.raises(UserError):
        feature_cache.extract(Counter(bad=[9]), SOURCES, tmp_path, "visual")
    kept = feature_cache.extract(Counter(), SOURCES, tmp_path, "visual")
    np.testing.assert_array_equal(kept.tally(SOURCES), [[i, 10] for i in range(10)])
    assert kept["k3"].shape == (1, 2)


def test_reading_ahead_is_in_order_and_bounded():
    begun = []
    stream = feature_cache.read_ahead(lambda i: begun.append(i) or i, range(1000), 4)
    for taken in range(20):
        assert next(stream).result() == taken
        assert len(begun) <= taken + 1 + 4 + feature_cache.THREADS
    stream.close()
    assert len(begun) < 100


def test_no_room_is_refused_before_the_work_and_what_is_finished_takes_none(tmp_path, monkeypatch, capsys):
    """What is lacking goes to the cache, and everything to the corpus."""
    doubler = Doubler()
    sizes = {"audio": dict.fromkeys(SOURCES, 100), "visual": {"v": 500}}
    encoders = {"audio": doubler, "visual": doubler}
    free = {"free": 3000}
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(**free))
    feature_cache.refuse_no_room(encoders, sizes, tmp_path)  # 2 * (1000 + 500)
    free["free"] = 2999
    with pytest.raises(UserError, match=r"audio features 1e-06 GB, the visual features 5e-07 GB: .* 3e-06 GB, and"):
        feature_cache.refuse_no_room(encoders, sizes, tmp_path)
    feature_cache.extract(doubler, SOURCES, tmp_path, "audio")
    free["free"] = 2000
    feature_cache.refuse_no_room(encoders, sizes, tmp_path)
    free["free"] = 1999
    with pytest.raises(UserError, match="Take fewer --audio-layers, a --audio-pool, a longer --audio-stride-ms, or"):
        feature_cache.refuse_no_room(encoders, sizes, tmp_path)
    assert "note" not in capsys.readouterr().err
    free["free"] = 2**40
    feature_cache.refuse_no_room({"text": doubler}, {"text": {"k": 2 * 10**9}}, tmp_path)
    assert "note: the text features 2 GB, in the cache and again in the corpus" in capsys.readouterr().err


@needs_prep
def test_room_for_all_modalities_is_asked_for_before_the_first_is_encoded(tmp_path):
    from data_prep import speech_corpus
    from data_prep.encoders import extract, media

    utterance = speech_corpus.acted(id="u", split="train", speaker="s", label="joy")
    row = extract.UtteranceClip(utterance, media.Clip("u.wav", tmp_path), "u.wav")
    checked = {"u": media.Checked("", "k0", 3.0)}
    sound, sight = Doubler(), Doubler()
    for encoder, size in ((sound, 10), (sight, 2**60)):
        encoder.longest, encoder.room = 2.0, lambda seconds, size=size: size * round(seconds)
    with pytest.raises(UserError, match=r"the visual features 2.31e\+09 GB"):
        extract.features_of([row], checked, {"audio": sound, "visual": sight}, tmp_path, skip_broken=False)
    assert sound.encoded == []
