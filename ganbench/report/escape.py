"""Texts from results as they may be written elsewhere: one function for each place. (On a page, Jinja escapes them.)"""

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would compute


def csv_cell(text: str) -> str:
    """A text cell that no spreadsheet takes for a formula: an apostrophe goes before what would be one.

    Examples:
        >>> csv_cell("=1+2"), csv_cell("dcgan")
        ("'=1+2", 'dcgan')
    """
    return f"'{text}" if text.startswith(FORMULA) else text


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no links, no emphasis, no end of a table's cell or line.

    Examples:
        >>> markdown_text("a|b <img src=x>")
        'a\\\\|b &lt;img src=x&gt;'
    """
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    for character in "\\`*[]|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.splitlines())
