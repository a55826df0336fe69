"""Text as LaTeX typesets it."""

import itertools

# Text of another script, and its characters' numbers: as itself where the engine or a package can, else as numbers.
CJK, OTHER = r"\gbcjk", r"\gbscript"
DEFINITIONS = {
    CJK: rf"\DeclareRobustCommand{{{CJK}}}[2]{{\ifdefined\XeTeXversion#1\else\ifdefined\directlua#1\else"
         r"\ifcsname CJK\endcsname\begin{CJK}{UTF8}{gbsn}#1\end{CJK}\else#2\fi\fi\fi}",
    OTHER: rf"\DeclareRobustCommand{{{OTHER}}}[2]{{\ifdefined\XeTeXversion#1\else\ifdefined\directlua#1\else#2\fi\fi}}"}
SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
           "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
           ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "–": "--", "×": r"$\times$", "±": r"$\pm$",
           "≈": r"$\approx$", "▾": r"$^{-}$", "†": r"$^{\dagger}$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
           "…": r"\ldots{}",
           "’": "'", "“": "``", "”": "''"}


def tex(text: str) -> str:
    """Text as LaTeX typesets it: special characters escaped, other scripts by a macro that every engine can read."""
    parts: list[str] = []
    for macro, run in itertools.groupby(text, key=_script):
        if macro:
            characters = list(run)
            parts.append(f"{macro}{{{''.join(characters)}}}{{{' '.join(f'U+{ord(c):04X}' for c in characters)}}}")
        else:
            parts += [SPECIAL.get(c, c if c.isprintable() else " ") for c in run]
    return "".join(parts)


def needed_by(text: str) -> list[str]:
    """The definitions of the macros in a text that `tex` wrote, a line each, to be put before it."""
    return [definition for macro, definition in DEFINITIONS.items() if macro in text]


def _script(character: str) -> str:
    """The macro that a character needs; "" for Latin ones and those that have a command of their own."""
    if ord(character) <= 0x17F or character in SPECIAL:
        return ""
    blocks = ((0x2E80, 0x9FFF), (0xAC00, 0xD7FF), (0xFF00, 0xFFEF))  # radicals to ideographs, Hangul, full-width forms
    return CJK if any(low <= ord(character) <= high for low, high in blocks) else OTHER
