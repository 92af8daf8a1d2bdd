import jax.numpy as jnp

from mer_jax.runtime import console, run_log


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
