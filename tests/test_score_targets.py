"""predictions.jsonl of a run of several targets is scored target by target."""

import numpy as np
import pytest
import test_score
from test_score import our_lines, values, write_jsonl

score = test_score.score  # the fixture


def test_of_a_run_of_several_targets_each_is_scored(score, tmp_path):
    def lines():
        for i, line in enumerate(our_lines()):
            numbers, other = {"valence": i % 5 / 2, "arousal": i % 3 / 2}, {"valence": i % 4 / 2, "arousal": i % 3 / 2}
            line |= {"vad_targets": numbers, "vad_prediction": other}
            yield line | {"tone_targets": {"sentiment": i % 3 - 1.0}, "tone_prediction": {"sentiment": 0.5}}

    path, one = write_jsonl(tmp_path / "p.jsonl", lines()), ("--replica", "fold a, seed 0")
    found = values(score(path, "--as", "vad", *one), "vad")
    assert found["mae_arousal"] == 0
    assert found["mae_valence"] == pytest.approx(np.mean([abs(i % 5 - i % 4) / 2 for i in range(0, 60, 2)]))
    assert values(score(path, "--as", "mosi", *one), "mosi")["mae"] == pytest.approx(2.5 / 3)
    assert values(score(path, "--as", "iemocap", *one), "iemocap")["uar"] == 1
