"""TODO: say what lives here."""

import argparse

from mer_jax.predict.encoder_client import EncoderLocations


def add_encoders(out: argparse.ArgumentParser) -> None:
    """The flags that `encoding_of` reads."""
    for what in ("audio", "visual", "text"):
        out.add_argument(
            f"--{what}-encoder",
            default="",
            metavar="PATH",
            help=f"where the run's {what} encoder is, if its name does not tell",
        )
    out.add_argument(
        "--asr",
        default="",
        metavar="NAME",
        help="speech recogniser of transformers for clips without text, by name or path",
    )
    out.add_argument("--device", default="auto", help="of PyTorch, for the encoders; default: %(default)s")


def encoding_of(given: argparse.Namespace) -> EncoderLocations:
    return EncoderLocations(given.audio_encoder, given.visual_encoder, given.text_encoder, given.device, given.asr)
