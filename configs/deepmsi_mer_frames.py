"""DeepMSI-MER end to end from frames: a Swin V2 that compresses tokens, guided by text and audio, then the TCN.

python -m mer_jax.main --config=configs/deepmsi_mer_frames.py:tiny                              drawn frames, minutes
python -m mer_jax.main --config=configs/deepmsi_mer_frames.py:swin_t --config.data.path=DIR     our settings
python -m mer_jax.main --config=configs/deepmsi_mer_frames.py:published --config.data.path=DIR  the official ones

`:published` has the official rates for IEMOCAP, `:meld_published` those for MELD; `:iemocap_published` is the first.

DIR is a corpus with frames: `python -m data_prep.clips … --visual-encoder=jpeg`. With a public checkpoint, of which the
last two stages learn, and lower layers more slowly:

python -m data_prep.swin microsoft/swinv2-tiny-patch4-window8-256 --out swin_t.npz
… --config.backbone.weights=swin_t.npz --config.backbone.trainable_stages=last:2 --config.backbone.layer_decay=0.8

On two CPU cores `:tiny` takes 3 min 30 s, with an empty cache 4 min 50 s, and reaches 0.958 of the Bayes-optimal
accuracy (90.5 of 94.4). A step of `:published` on 2 x 15 frames takes 5.5 s there. No score is known here for
`:swin_t` and `:published`.
"""

from mer_jax.models import deepmsi_mer_frames


def get_config(arg: str = "") -> deepmsi_mer_frames.DeepMSIFramesExperiment:
    """arg: "swin_t" or "" = published sizes, our training; "published" or "iemocap_published" = as the official code,
    with its rates for IEMOCAP; "meld_published" = with those for MELD; "tiny" = a backbone for the demo corpus's drawn
    frames; "tiny_regression", "tiny_multilabel" = the same for numbers, and for several emotions at once."""
    arg = {"": "swin_t", "iemocap_published": "published"}.get(arg, arg)
    official = arg in ("published", "meld_published")
    experiment = deepmsi_mer_frames.DeepMSIFramesExperiment(experiment=f"deepmsi_mer_frames-{arg}")
    model, loss, optim, train = experiment.model, experiment.loss, experiment.optim, experiment.train
    frames, backbone = experiment.frames, experiment.backbone
    experiment.data.modalities, experiment.data.read_threads = ("text", "audio", "visual"), 4
    if official or arg == "swin_t":
        model.early_width, model.projection, model.late_widths = 512, 256, (512, 256, 128)
        model.tcn_widths = (1024, 1024, 1024)
        train.batch_size, train.eval_batch_size, train.epochs, train.patience = 16, 16, 30, 4
    if official:
        model.variant, model.pool, train.batch_size = "published", "mean", 32
        if arg == "published":
            model.projection_dropout, model.early_dropout, model.dropout, model.tcn_dropout = 0.2, 0.3, 0.3, 0.3
        else:
            model.projection_dropout = model.early_dropout = model.dropout = model.tcn_dropout = 0.4
        loss.label_smoothing, loss.pairs, loss.per_positive = 0.0, ("visual-text", "visual-audio"), False
        optim.name, optim.weight_decay, optim.clip, optim.ema_decay = "adam", 1e-5, 0.0, 0.0
        optim.schedule, optim.warmup = "constant", 0.0
        optim.learning_rate = 5e-5 if arg == "published" else 1e-4
        frames.crop, frames.flip, frames.colour = 1.0, 0.0, 0.0
    elif arg == "swin_t":
        backbone.norm_first, train.precision = False, "bfloat16"  # as in public checkpoints
        optim.learning_rate, optim.weight_decay, optim.ema_decay = 3e-4, 0.05, 0.999
    elif arg in ("tiny", "tiny_regression", "tiny_multilabel"):
        task = arg.partition("_")[2]
        experiment.data.path, experiment.data.modalities = "demo:frames" + f"-{task}" * bool(task), ("visual",)
        if task:
            train.select = "ccc" if task == "regression" else "map"
            loss.regression = "mse" if task == "regression" else loss.regression
        model.early_width = model.projection = 64
        model.tcn_widths, model.late_widths = (64, 64), (64,)
        # What a drawn square says depends on its colours, and on what is left and right in it.
        frames.size, frames.crop, frames.flip, frames.colour = 32, 1.0, 0.0, 0.0
        backbone.width, backbone.depths, backbone.heads, backbone.window, backbone.mlp = 64, (1, 2), (4, 4), 4, 2
        backbone.vsc_stage, backbone.vsc_grid_sides, backbone.drop_path, backbone.rematerialize = 1, (4,), 0.0, False
        model.dropout = model.tcn_dropout = model.projection_dropout = 0.1
        loss.label_smoothing, optim.learning_rate = 0.0, 5e-4  # twice that sometimes stays on a plateau
        train.eval_batch_size, train.epochs, train.patience = 64, 40 if task == "regression" else 20, 0
    else:
        known = "swin_t, published, iemocap_published, meld_published, tiny, tiny_regression and tiny_multilabel"
        raise ValueError(f"configs/deepmsi_mer_frames.py knows the arguments {known}, not {arg!r}")
    return experiment
