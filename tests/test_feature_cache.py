"""What is finished is not encoded again, and comes out with the same bits."""

import numpy as np
import pytest

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
