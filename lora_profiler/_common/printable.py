"""Text that came from elsewhere, made fit to be printed: nothing in it moves a cursor, colours a
line or hides a word."""


def printable(text: str) -> str:
    """`text` on one line: white space as spaces, and every other character that does not print as
    its escape, as in \\x1b.

    Control characters, marks that turn the direction of writing, lone surrogates and private
    characters are those.
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
