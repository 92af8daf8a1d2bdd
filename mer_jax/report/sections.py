"""The sections of a finished run's report, each as HTML. No JAX."""

from mer_jax.report.sections_errors import calibration, confusion, embedding, mistakes, modalities, per_class
from mer_jax.report.sections_run import about, cost, reproduce, robustness, settings, versions
from mer_jax.report.sections_scores import headline, learning, points

SECTIONS = (
    ("Data and protocol", about),
    ("Test scores", headline),
    ("Points and ensembles", points),
    ("Learning curves", learning),
    ("Confusion", confusion),
    ("Classes", per_class),
    ("Calibration", calibration),
    ("Map of the utterances", embedding),
    ("Most confident mistakes", mistakes),
    ("Modalities", modalities),
    ("Robustness", robustness),
    ("Hardware and cost", cost),
    ("Settings", settings),
    ("Versions", versions),
    ("How to reproduce", reproduce),
)
