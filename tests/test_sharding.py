"""One device against eight: the same gradients and, under SGD, the same losses."""

import dataclasses
import itertools
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import store
from conftest import corpus_of
from experiments import hearing, of_family, with_plain_sgd, with_sgd

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.runtime import run_log, sharding
from mer_jax.runtime.checkpoint import Checkpoints
from mer_jax.settings import MeshSettings
from mer_jax.training import setup


@pytest.fixture
def config():
    config = of_family("lsgmer", ("text",))
    config.model.width = 32
    return with_dropout(config)


def with_dropout(config):
    config.model.dropout, config.train.batch_size = 0.3, 32
    return config_lib.validate(with_sgd(config))


def losses(config, corpus, devices, steps):
    """Loss and gradient norm of every step and replica, and the final params."""
    run = setup.assemble(config, corpus, Path("unused"), jax.devices()[:devices])
    run.groups.begin()
    found = []
    for _, batch in zip(range(steps), run.data.batches.training(run.data.order, 0), strict=False):
        terms = run_log.by_replica(run.groups.train(run.live(), *batch))
        found.append([[terms[r]["loss"], terms[r]["grad_norm"]] for r in sorted(terms)])
    state = run.groups.saved()["state"]
    assert state.step.sharding.num_devices == devices
    return np.array(found), jax.device_get(state.params)


@pytest.fixture(scope="module")
def corpus():
    return Corpus(corpus_of(600))


@pytest.fixture(scope="module")
def small_demo():
    return Corpus(store.demo_corpus("demo-216", counts={"train": 200, "valid": 8, "test": 8}))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["none", "both"])
def test_one_device_is_eight_devices(config, corpus, context):
    assert jax.device_count() == 8
    hearing(config, context)
    one, params_one = losses(config, corpus, 1, 12)
    eight, params_eight = losses(config, corpus, 8, 12)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[-1, 0, 0] < one[0, 0, 0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), params_one, params_eight)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lsgmer", "fixed", "published"])
def test_gradients_of_one_step(family, small_demo):
    """SGD's first step at rate 1 without clip or decay is the gradient itself. DeepMSI-MER's contrastive loss compares
    every sample with every other, on whatever device it is."""
    config = with_dropout(of_family(family))
    with_plain_sgd(config, 1.0)
    if family == "lsgmer":
        config.model.width, config.model.label_average = 32, 0.0
    else:
        config.optim.ema_decay = 0.0
    _, one = losses(config, small_demo, 1, 1)
    _, eight = losses(config, small_demo, 8, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), one, eight)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"model": 2}, {"fsdp": True}, {"model": 4, "fsdp": True}])
def test_any_batch_on_any_mesh(config, corpus, changes):
    """A batch that the devices cannot share evenly is filled up; weights and moments are split or not."""
    config.train.batch_size = 13
    one, params_one = losses(config, corpus, 1, 3)
    config.mesh = MeshSettings(**changes)
    many, params_many = losses(config, corpus, 8, 3)
    np.testing.assert_allclose(many, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), params_one, params_many)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX tells of a TPU chip."""

    id: int
    slice_index: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def chips(slices, wide=2, deep=2):
    places = [(s, x, y) for s in range(slices) for y in range(deep) for x in range(wide)]
    return [Chip(i, s, s, (x, y, 0)) for i, (s, x, y) in enumerate(places)]


@pytest.mark.parametrize(
    ("slices", "replicas", "model", "shape", "slices_along"),
    [
        (2, 30, 1, (2, 4, 1), 0),
        (2, 1, 1, (1, 8, 1), 1),
        (2, 4, 2, (4, 1, 2), 0),
        (4, 6, 2, (2, 4, 2), None),
        (3, 3, 4, (3, 1, 4), 0),
    ],
)
def test_slices_of_tpus_lie_along_replicas_then_along_the_batch(slices, replicas, model, shape, slices_along):
    grid = sharding.grid_of_slices(replicas, model, chips(slices))
    assert grid.shape == shape
    assert sorted(chip.id for chip in grid.flat) == list(range(4 * slices))
    lies_in = np.vectorize(lambda chip: chip.slice_index)(grid)
    assert (lies_in == lies_in[..., :1]).all(), "the parts of one layer never lie in two slices"
    for axis in (0, 1):
        if slices_along is not None and axis != slices_along:
            assert (lies_in == lies_in.take([0], axis)).all()
    with pytest.raises(UserError, match=r"mesh\.model=8: must divide the devices of each slice"):
        sharding.grid_of_slices(1, 8, chips(slices))


def test_replicas_are_spread_first():
    shapes = [tuple(sharding.make_mesh(count).shape.values()) for count in (1, 2, 3, 8, 12, 30)]
    assert shapes == [(1, 8, 1), (2, 4, 1), (1, 8, 1), (8, 1, 1), (4, 2, 1), (2, 4, 1)]
    assert tuple(sharding.make_mesh(2, model=2).shape.values()) == (2, 2, 2)
    with pytest.raises(UserError, match="must divide the 8 devices"):
        sharding.make_mesh(1, model=3)


MESHES = ((1, {}), (8, {"model": 2, "fsdp": True}), (4, {"fsdp": True}))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "replicas"), [(1, 1), (2, 2), (2, 1)])
def test_a_checkpoint_moves_to_another_mesh(config, corpus, tmp_path, count, replicas):
    """Bit for bit: on one device, on others, with weights split or not, replicas together or in turn."""
    config.replicas.seeds, config.replicas.replicas_per_step = count, replicas
    checkpoints = Checkpoints(tmp_path / "c", keep=9)
    wanted = None
    for step, (devices, mesh) in enumerate(itertools.chain(MESHES, MESHES), 1):
        config.mesh = MeshSettings(**mesh)
        run = setup.assemble(config, corpus, "unused", jax.devices()[:devices])
        run.groups.begin()
        if step > 1:
            found = checkpoints.newest(run.groups.like(), lambda step, info: None, pytest.fail)
            assert found[0] == step - 1
            run.groups.load(found[2])
        saved = run.groups.saved()
        checkpoints.save(step, saved, {})
        checkpoints.wait()
        arrays = [
            np.asarray(x) for x in jax.tree.leaves(saved) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        ]
        wanted = wanted or arrays
        for found, value in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(found, value)
        split = [x.sharding.shard_shape(x.shape) != x.shape for x in jax.tree.leaves(saved["state"].params)]
        assert any(split) == (devices > 1)
    checkpoints.close()


def collectives(config, corpus):
    """Of a compiled step on 8 devices: how many numbers each kind of collective moves, as shares of the number of
    params; and the share of a replica's state that a device holds."""
    run = setup.assemble(config_lib.validate(config), corpus, "unused")
    order = loader.training_order(run.data.batches.pool, run.data.rows_of_training(), config.train.batch_size, 0, 1)
    source, row_positions, padded_lengths, rows = next(run.data.batches.training(order, 0))
    shapes = jax.eval_shape(run.steps.init, np.uint32(0), run.data.inputs[0], {})
    state = jax.tree.map(
        lambda x, along: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=along), shapes, run.steps.layout["state"]
    )
    weight = jax.ShapeDtypeStruct((len(rows),), bool)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
        text = run.steps.train.lower(state, weight, source, row_positions, padded_lengths).compile().as_text()
    params = sum(x.size for x in jax.tree.leaves(shapes.params))
    found = {}
    for line in text.splitlines():
        if made := re.search(
            r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(", line
        ):
            sizes = [
                math.prod(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\w+\[([\d,]*)\]", made[1])
            ]
            found[made[2]] = found.get(made[2], 0) + sum(sizes) / params
    held = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(state.opt_state))
    return found, held / sum(x.size for x in jax.tree.leaves(state.opt_state))


@pytest.mark.slow
def test_what_the_devices_tell_each_other(small_demo):
    """Data parallel: the gradients, once, and for the contrastive loss the projections. With fsdp the weights are
    gathered and a device holds an eighth of the moments."""
    for family, kinds, sums in (
        ("lsgmer", {"all-reduce"}, 1.01),
        ("deepmsi_mer", {"all-reduce", "all-gather"}, 1.1),
    ):
        config = of_family(family)
        config.data.max_length = (8,)
        moved, held = collectives(config, small_demo)
        assert moved.keys() == kinds
        assert 1 <= moved["all-reduce"] < sums
        assert moved.get("all-gather", 0) < 0.06
        assert held == 1
        config.mesh.fsdp = True
        moved, held = collectives(config, small_demo)
        assert moved["all-gather"] > 0.4
        assert moved["all-reduce"] < 0.9
        assert held < 0.14
