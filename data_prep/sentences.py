"""Sentences are made plain here: wrongly decoded characters are repaired, typographic ones are replaced."""

# Windows-1252 characters that came through as Latin-1 control codes, and typographic quotes, dashes and spaces.
PLAIN = {i: bytes([i]).decode("cp1252", "ignore") for i in range(0x80, 0xA0)}
QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " "})


def normalise(sentence: str) -> str:
    """Returns the sentence with plain quotes, dashes and single spaces; mis-decoded Windows-1252 is repaired."""
    return " ".join(sentence.translate(PLAIN).translate(QUOTES).split())
