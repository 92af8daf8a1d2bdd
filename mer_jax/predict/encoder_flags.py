"""The flags of commands that encode clips: where the run's encoders are."""

import argparse

from mer_jax.predict.encoder_client import EncoderLocations


def add_encoder_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `locations_of` reads."""
    for modality in ("audio", "visual", "text"):
        where = f"where the run's {modality} encoder is, if its name does not tell"
        parser.add_argument(f"--{modality}-encoder", default="", metavar="PATH", help=where)
    asr = "speech recogniser of transformers for clips without text, by name or path"
    parser.add_argument("--asr", default="", metavar="NAME", help=asr)
    parser.add_argument("--device", default="auto", help="of PyTorch, for the encoders; default: %(default)s")
    memory = "that one file may take to be read; default: 4 times its size, 1 at least"
    parser.add_argument("--memory-limit", type=float, default=0.0, metavar="GIB", help=memory)


def locations_of(arguments: argparse.Namespace) -> EncoderLocations:
    """What the flags say."""
    return EncoderLocations(
        audio=arguments.audio_encoder,
        visual=arguments.visual_encoder,
        text=arguments.text_encoder,
        device=arguments.device,
        asr=arguments.asr,
        memory_limit=arguments.memory_limit,
    )
