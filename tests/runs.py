"""What lies in the workdir of a run, read and compared."""

import json

import jax
import numpy as np

EQUAL = ("metrics.json", "predictions.jsonl", "history.jsonl", "parameters.txt")


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def committed(workdir):
    """The steps that are saved; none while there is no such folder."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def final_arrays(workdir):
    """Every array of the last checkpoint, by path."""
    import orbax.checkpoint as ocp

    last = (workdir / "checkpoints" / str(committed(workdir)[-1]) / "state").absolute()
    reader = ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(last).item_metadata.tree
    )
    found = ocp.tree.to_flat_dict(reader.restore(last, restore_args=as_numpy), sep="/")
    return {name: leaf for name, leaf in found.items() if isinstance(leaf, np.ndarray)}  # all but keys


def without_looks(name, content):
    """The bytes of a file of a workdir. How often the corpus's test part was looked at is not the run's: every run adds to it."""
    if name == "metrics.json":
        metrics = json.loads(content)
        assert metrics["protocol"].pop("test_looks") >= 1
        return json.dumps(metrics).encode()
    return content


def compare(workdir, uninterrupted):
    """Files, and the arrays of the last checkpoint: which one stays beside it is a matter of time."""
    for name in EQUAL:
        ours, wanted = (without_looks(name, (run / name).read_bytes()) for run in (workdir, uninterrupted))
        assert ours == wanted, name
    ours, wanted = final_arrays(workdir), final_arrays(uninterrupted)
    assert ours.keys() == wanted.keys()
    assert len(wanted) > 20
    for key, value in wanted.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=str(key))
