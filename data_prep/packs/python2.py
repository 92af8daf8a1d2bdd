"""The `str` of Python 2 in a pickle: text in UTF-8 or Latin-1, or the bytes of an array, which may look like text."""


class Text(str):
    """Text in UTF-8 and `raw`, the bytes that it was."""

    raw: bytes


def decoded(raw: bytes) -> str:
    """Returns the text that bytes most likely are."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin1")
    if text.isascii():
        return text
    found = Text(text)
    found.raw = bytes(raw)
    return found


def bytes_of(text: str) -> bytes:
    """Returns what `decoded` was given."""
    return text.raw if isinstance(text, Text) else text.encode("latin1")
