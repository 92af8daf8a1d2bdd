import json
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from etils import epath

from mer_jax.runtime import console, run_log
from mer_jax.training.loop import Loop


def test_a_batch_without_a_positive_pair_is_told(tmp_path, capsys):
    history = run_log.History(tmp_path, 0)
    meter = run_log.Meter(history, console.Stopwatch())
    for at, pairs in ((1, 4), (2, 0)):
        meter.log(at, [((0,), {"loss": jnp.ones(1), "positive_pairs": jnp.full(1, pairs)})], [0])
        meter.fetch()
    history.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 2: no two utterances of the batch share a label; its contrastive loss is 0"
    ]


def test_a_damaged_line_of_the_history_is_told_and_left_out(tmp_path, capsys):
    path, row = tmp_path / "history.jsonl", {"epoch": 1, "step": 5, "replica": "r", "valid": {"loss": 1.0}}
    good, later = json.dumps(row), json.dumps(row | {"step": 10})
    path.write_text(f"{good}\n{good.replace('5', '-5')}\nnonsense\n{later}\n")
    history = run_log.History(tmp_path, 5, 2)
    history.evaluations([row | {"step": 10}])
    history.close()
    assert path.read_text() == f"{good}\n{later}\n"
    told = capsys.readouterr().out.replace("\n", " ")
    assert "holds 1 of the 2 evaluations so far" in told
    assert "line 2 is damaged (field 'step': expected int >= 0) and left out" in told
    assert "line 3 is damaged" in told


@pytest.mark.parametrize(("cut", "kept"), [(0, 2), (1, 2), (3, 1)])
def test_a_history_that_was_cut(tmp_path, capsys, cut, kept):
    rows = [json.dumps({"epoch": i, "step": 5 * i, "replica": "r", "valid": {"loss": 1.0}}) + "\n" for i in (1, 2)]
    text = "".join(rows)
    (tmp_path / "history.jsonl").write_text(text[: len(text) - cut])
    run_log.History(tmp_path, 10, 2).close()
    assert ("holds 1 of the 2" in capsys.readouterr().out) == (kept == 1)


def test_a_damaged_cost_is_told(tmp_path, capsys):
    path = tmp_path / "cost.json"
    path.write_text('{"sessions": [{"began": 3}]}')
    assert run_log.sessions_before(epath.Path(path)) == []
    assert "field 'sessions.0.began': expected str, got int" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(("rate", "end"), [("", "*best*"), ("8.0 steps/s, 1 s left", "1 s left at most")])
def test_an_epoch_of_no_known_rate_ends_without_at_most(capsys, rate, end):
    """A run of fewer steps than train.log_steps ended its lines with a bare `at most`."""
    run = SimpleNamespace(task=SimpleNamespace(metrics={}, headline=[]), progress=[None], live=lambda: [0])
    loop = SimpleNamespace(
        _run=run,
        _meter=SimpleNamespace(loss=None),
        _settings=SimpleNamespace(epochs=2),
        _progress=SimpleNamespace(rate=lambda: rate),
    )
    Loop._print_epoch(loop, 1, {"loss": 1.0}, [True])
    assert capsys.readouterr().out.rstrip().endswith(end)
