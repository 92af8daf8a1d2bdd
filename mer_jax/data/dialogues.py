"""What a corpus says of its dialogues: who speaks when. No JAX."""

from collections import Counter

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError


def refuse_without(corpus: Corpus, context: str) -> None:
    """Raises UserError unless there is something to hear besides an utterance."""
    names = corpus.index["dialogue"][corpus.index["dialogue"] != ""].tolist()
    if max(Counter(names).values(), default=0) < 2:
        what = "dialogues of one turn each" if names else "utterances that name no dialogue"
        raise UserError(
            f"--config.data.context={context}: corpus {corpus.manifest['name']!r} has only {what}, so that there is "
            "nothing to hear besides an utterance; leave it at none, or import the corpus with its dialogues and turns"
        )
