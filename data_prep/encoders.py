"""The encoders of clips that a command line asks for."""

import argparse

from data_prep import frozen
from data_prep.audio import EGEMAPS, Egemaps, SpeechEncoder
from data_prep.features import POOLINGS
from data_prep.visual import PICTURES, FrameCoder, FrameEncoder
from mer_jax.errors import UserError

FRAME_SIZE = 256  # what Swin V2's public weights were trained on


def add_audio(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--audio-encoder", default=default, metavar="NAME|egemaps",
        help="a speech encoder of transformers by hub name or local path, or egemaps: openSMILE's low-level descriptors; "
        "default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--audio-layers", default="-1", metavar="N,N", help="as --text-layers; default: %(default)s")
    parser.add_argument(
        "--audio-pooling", choices=POOLINGS, default="tokens", help="every step or their mean; default: %(default)s"
    )
    parser.add_argument(
        "--audio-every", type=positive, default=1, metavar="N", help="shorten sequences: the mean of every N steps; default: %(default)s"
    )  # fmt: skip
    parser.add_argument(
        "--longest", type=positive_float, default=30.0, metavar="SECONDS",
        help="longer clips are cut to their beginning, and counted; default: %(default)s",
    )  # fmt: skip


def add_visual(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--visual-encoder", metavar="NAME|jpeg|png", help="an image encoder of transformers by hub name or local path; or jpeg, png: the "
        "frames themselves, for configs/deepmsi_mer_frames.py"
    )  # fmt: skip
    parser.add_argument(
        "--visual-layers", metavar="N,N", help="means over the patches of these hidden layers; default: the model's pooled output"
    )  # fmt: skip
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
    parser.add_argument("--faces", action="store_true", help="cut each frame to its largest face (OpenCV's frontal Haar cascade); frames "
                        "without a found face stay whole, and are counted")  # fmt: skip


def audio_of(arguments: argparse.Namespace) -> SpeechEncoder | Egemaps:
    shape = {"pooling": arguments.audio_pooling, "every": arguments.audio_every, "longest": arguments.longest}
    if arguments.audio_encoder == EGEMAPS:
        return Egemaps(**shape)
    layers = frozen.layers_of("--audio-layers", arguments.audio_layers)
    return SpeechEncoder(arguments.audio_encoder, layers, device=arguments.device, **shape)


def visual_of(arguments: argparse.Namespace) -> FrameEncoder | FrameCoder:
    if arguments.visual_encoder in PICTURES:
        if arguments.visual_layers or arguments.visual_pooling != "tokens":
            raise UserError(f"--visual-encoder={arguments.visual_encoder} keeps the frames themselves: --visual-layers and --visual-pooling are of encoders")  # fmt: skip
        return FrameCoder(
            arguments.visual_encoder, arguments.frame_size or FRAME_SIZE, frames=arguments.frames,
            per_second=arguments.frame_rate, faces=arguments.faces, longest=arguments.longest,
        )  # fmt: skip
    layers = frozen.layers_of("--visual-layers", arguments.visual_layers) if arguments.visual_layers else ()
    return FrameEncoder(
        arguments.visual_encoder, layers, frames=arguments.frames, per_second=arguments.frame_rate,
        faces=arguments.faces, pooling=arguments.visual_pooling, longest=arguments.longest, device=arguments.device,
    )  # fmt: skip


def refuse_idle(arguments: argparse.Namespace) -> None:
    """Raises UserError for an option that does nothing beside the others."""
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
