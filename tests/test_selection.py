"""Hidden states become features: layers side by side, apart or averaged, and what of their time steps."""

import itertools

import numpy as np
import pytest
from recordings import needs_prep

from data_prep.encoders.selection import SPANS, Selection, parse_layers
from mer_jax.errors import UserError

STATES = np.random.default_rng(0).normal(size=(75, 3, 4)).astype(np.float32)  # time, layers, width


def reference(states, pool, every, averaged):
    """Float64, one layer after the other."""
    layers = [states.astype(np.float64).mean(1)] if averaged else [states[:, i].astype(np.float64) for i in range(3)]
    time = len(states)
    if pool == "none":
        each = [[x[at : at + every].mean(0) for at in range(0, time, every)] for x in layers]
    elif pool == "attention-ready":
        spans = min(SPANS, time)
        ends = [i * time // spans for i in range(spans + 1)]
        each = [[x[a:b].mean(0) for a, b in itertools.pairwise(ends)] for x in layers]
    else:
        of = {
            "mean": lambda x: x.mean(0),
            "mean+std": lambda x: np.concatenate([x.mean(0), np.sqrt(np.square(x - x.mean(0)).mean(0))]),
            "max": lambda x: x.max(0),
            "first": lambda x: x[0],
        }[pool]
        each = [[of(x)] for x in layers]
    return np.concatenate([np.stack(steps) for steps in each], -1)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    ("pool", "every"),
    [("none", 1), ("none", 4), ("mean", 1), ("mean+std", 1), ("max", 1), ("first", 1), ("attention-ready", 1)],
)
@pytest.mark.parametrize("time", [1, 5, 75])
def test_features_are_what_is_asked_for(pool, every, averaged, time):
    selection = Selection((0, 1, 2), averaged, pool=pool, every=every)
    found = selection.features(STATES[:time])
    wanted = reference(STATES[:time], pool, every, averaged)
    assert found.dtype == np.float16
    assert found.shape[1] == selection.width(4)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    again = Selection.from_identity(selection.identity() | {"every": every})
    assert again == selection


def test_half_precision_that_is_too_narrow_is_refused():
    with pytest.raises(UserError, match="beyond half precision; take other layers"):
        Selection((0, 1, 2)).features(STATES * 1e5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_no_numbers_are_refused(value):
    """They went to the cache and into corpora, and there only the audit told."""
    states = STATES.copy()
    states[70, 1, 2] = value
    for pool in ("none", "mean", "max", "attention-ready"):
        with pytest.raises(UserError, match=r"states are NaN or infinite: .* --precision is too narrow"):
            Selection((0, 1, 2), pool=pool).features(states)


@pytest.mark.parametrize(
    ("text", "layers", "averaged"),
    [
        ("6,12", (6, 12), False),
        ("-1", (12,), False),
        ("all", tuple(range(13)), False),
        ("mean", tuple(range(13)), True),
    ],
)
def test_layers_are_read_and_counted_from_the_front(text, layers, averaged):
    which, mean = parse_layers("--text-layers", text)
    several = len(layers) > 1
    found = Selection(which, mean, several).resolved("--text-layers", "mpnet", 12)
    assert (found.layers, found.averaged) == (layers, averaged)
    assert found.axis == (layers if several and not averaged else ())


@pytest.mark.parametrize(
    ("text", "words"),
    [("13", "mpnet has layers 0 to 12"), ("-14", "mpnet has layers 0 to 12"), ("12,-1", "a layer is named twice")],
)
def test_layers_that_are_not_there_are_refused(text, words):
    which, mean = parse_layers("--text-layers", text)
    with pytest.raises(UserError, match=f"--text-layers={text}: {words}"):
        Selection(which, mean).resolved("--text-layers", "mpnet", 12)


def test_one_layer_cannot_be_kept_apart():
    assert Selection(None, apart=True).resolved("--audio-layers", "mine", 1).axis == (0, 1)
    with pytest.raises(UserError, match="--audio-layers-apart: mine has one layer alone, 0"):
        Selection(None, apart=True).resolved("--audio-layers", "mine", 0)


def test_layers_must_be_numbers():
    with pytest.raises(UserError, match="--text-layers=last: must be whole numbers, all or mean"):
        parse_layers("--text-layers", "last")


def test_a_stride_is_a_multiple_of_the_encoder_s_step():
    assert Selection(stride_ms=80).strided(50.0, "whisper").every == 4
    assert Selection(stride_ms=20).strided(50.0, "whisper").every == 1
    for ms in (10, 30, 90.5):
        with pytest.raises(UserError, match=r"must be a multiple of 20, the milliseconds of a step of whisper"):
            Selection(stride_ms=ms).strided(50.0, "whisper")
    with pytest.raises(UserError, match="does not say how many steps a second"):
        Selection(stride_ms=20).strided(None, "mine")
    with pytest.raises(UserError, match="--audio-pool=mean leaves no steps"):
        Selection(pool="mean", stride_ms=20).strided(50.0, "whisper")


@needs_prep
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--audio-layers=all", "--audio-layers does nothing without --audio-encoder"),
        ("--audio-pool=mean", "--audio-pool does nothing without --audio-encoder"),
        ("--audio-stride-ms=40", "--audio-stride-ms does nothing without --audio-encoder"),
        ("--visual-layers=2", "--visual-layers does nothing without --visual-encoder"),
        ("--audio-encoder=egemaps --visual-pool=max", "--visual-pool does nothing without --visual-encoder"),
        ("--frame-rate=5", "--frame-rate does nothing without --visual-encoder"),
        ("--frame-size=64 --visual-encoder=vit", "--frame-size is of --visual-encoder=jpeg or png"),
        ("--text-pool=mean", ""),
        ("--audio-encoder=egemaps --audio-pool=max --visual-encoder=jpeg --faces --frame-size=64", ""),
    ],
)
def test_a_flag_that_does_nothing_is_refused(given, words):
    from data_prep import clips
    from data_prep.encoders import flags

    arguments = clips.main.__self__.parser().parse_args(["table.csv", "--out=out", *given.split()])
    if not words:
        flags.check_flags_apply(arguments)
        return
    with pytest.raises(UserError, match=f"^{words}"):
        flags.check_flags_apply(arguments)


@needs_prep
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("compare-functionals --audio-layers-apart", "--audio-encoder=compare-functionals has no layers: leave out"),
        (
            "compare_functionals",
            "--audio-encoder=compare_functionals: openSMILE's are written .*, compare-functionals$",
        ),
        ("eGeMAPS", "--audio-encoder=eGeMAPS: openSMILE's are written egemaps, "),
    ],
)
def test_an_opensmile_set_is_told_at_once(given, words):
    """The first was sent to --audio-layers=all, which is refused, too; the others to the hub, for half a minute."""
    from data_prep import emodb
    from data_prep.encoders import flags

    line = ["emodb.tar", "--out=out", "--audio-encoder", *given.split()]
    with pytest.raises(UserError, match=f"^{words}"):
        flags.audio_encoder(emodb.main.__self__.parser().parse_args(line))


@needs_prep
def test_sentences_that_are_not_encoded_take_no_pool():
    from data_prep import emodb
    from data_prep.encoders import flags

    arguments = emodb.main.__self__.parser().parse_args(["emodb.tar", "--out=out", "--text-pool=max"])
    flags.check_flags_apply(arguments)
    with pytest.raises(UserError, match=r"^--text-pool: no sentences are encoded here, only label words"):
        flags.check_flags_apply(arguments, with_text=False)


@needs_prep
def test_the_first_step_is_of_sentences_alone(capsys):
    """Only there does a token stand for all of them."""
    from data_prep import clips

    parser = clips.main.__self__.parser()
    assert parser.parse_args(["t.csv", "--out=o", "--text-pool=first"]).text_pool == "first"
    for modality in ("audio", "visual"):
        with pytest.raises(SystemExit):
            parser.parse_args(["t.csv", "--out=o", f"--{modality}-pool=first"])
        assert f"argument --{modality}-pool: invalid choice: 'first'" in capsys.readouterr().err
