"""Numbers that somebody typed where a result belongs: in a lesson, results are said by code.

A decimal (0.72, .72, 1e-4) or a percentage in a text, or in what code prints as text, is taken for a result, unless it stands

- in code, in a formula, in a link or an address (a formula or a piece of code that is only a number does not count);
- in a part whose heading or bold label says "by hand": up to the next heading, or the next bold label;
- in lines beginning with ">" that name their source: the word paper, arXiv, or a link;
- in a column of a table that is headed by a time, a size, or a setting and nothing else;
- right after the name of a setting: "α = 0.5", "a learning rate of 0.01", "τ from 0.5 to 2". Only small words may stand
  between, so that in "at α = 0.5 it refuses 0.72 of them" the second number is still found;
- as a name or a size: arXiv 2406.16743, Python 3.10, Llama-3.2, section 4.1, 0.9 M parameters, the 95 % of an interval.

What was measured is said by `lesson.claim`, by a table or a text that code fills in, or without a number. Whole numbers and
numbers in words are not looked at: too many of them are no results.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

CODE = r"```.*?(?:```|\Z)|(?P<tick>`+).+?(?P=tick)"
MATH = r"\$\$.+?\$\$|\$(?!\s)[^$\n]+?(?<!\s)\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\]"
SPAN = re.compile(rf"{CODE}|{MATH}|<!--.*?-->|(?<=\])\([^)\n]*\)|https?://\S+|</?[a-zA-Z][^>\n]*>", re.S)
NUMBER = r"(?:(?:\d+(?:[.,]\d+)*|\.\d+)(?:e[-−]?\d+)?)"
TYPED = re.compile(
    r"(?<![\w.])(?<!\w-)(?:\d*\.\d+(?:e[-−]?\d+)?|\d+e[-−]?\d+|\d[\d.,]*(?=\s*(?:%|per ?cent)))(?:\s*%)?", re.I
)
LIST = (  # "0.2, 0.5 and 0.9", "0 to 0.95"; with commas alone only in brackets: "{0.01, 0.05}"
    rf"(?:(?<=[{{(\[]){NUMBER}(?:,\s*{NUMBER})+(?=[}})\]])"
    rf"|{NUMBER}(?:(?:,\s*{NUMBER})*,?\s*(?:to|and|or|–|…|/)\s*{NUMBER})?)"
)
SETTING = (  # the name of a knob; κ and Δ name results
    r"(?<!\w)(?:(?-i:[αβγδελτσ])|alpha|beta(?: [dn]po)?|gamma|delta|epsilon|lambda|tau|sigma|temperature|learning rate|lr|dropout"
    r"|momentum|(?:\w+ )?(?:weight(?: decay)?|penalty|strength|radius|threshold)|canary fraction|step size|top[- ][kp]"
    r"|guidance(?: scale)?|slider|version|Python|PyTorch|torch|transformers|plotly)s?(?!\w)"
)
SMALL = (
    r"(?:\s*(?:[=≈≤≥<>∈:([{]|,? (?:say|for example),?"
    r"|\b(?:of|at|to|from|is|be|up|between|below|above|under|near|close|steps?|in steps|values?|the|a)\b))*\s*"
)
NO_RESULTS = [  # taken out of a text, in this order, before what is left is searched
    re.compile(pattern, re.I | re.M)
    for pattern in (
        r"arXiv:? ?\d{4}\.\d+",
        rf"\bin steps of {NUMBER}",
        rf"(?:\b(?:sections?|equations?|tables?|figures?|chapters?|appendix|lessons?)|eq\.|fig\.|§|^#+) ?{NUMBER}",
        rf"{NUMBER}\s?(?:[BM]\b|[kMG]B\b|million|billion)",
        rf"{NUMBER}\s*%[- ](?:(?:Wilson|bootstrap|credible|confidence)[- ])?(?:interval|confidence)",
        # "rises with α from 0.31 to 0.72" may speak of what rises
        rf"(?:(?<!with )|(?!{SETTING} (?:from|up|to)\b)){SETTING}{SMALL}{LIST}(?:\s*%)?(?![\w%]|\.\d|\s*%?\s+of\b)",
    )
]
HEADED = re.compile(rf"\s*{SETTING}\s*|.*\b(?:time|seconds?|minutes?|hours?|ms|size|[kMG]B)\b.*", re.I)
QUOTED = re.compile(r"(?:^ {0,3}>.*\n?)+", re.M)
TABLE = re.compile(r"(?:^ *\|.*\n?)+", re.M)
SHOWING = ("show_text", "print", "Markdown")


def in_texts(texts: Iterable[str]) -> Iterator[list[str]]:
    """The typed numbers of each markdown text of a notebook; the texts in order, since a heading holds for what follows."""
    by_hand = False
    for text in texts:
        found: list[str] = []
        for part in re.split(r"^(?=#{1,6} |\*\*)", SPAN.sub(_stand_in, QUOTED.sub(_sourceless, text)), flags=re.M):
            label = re.match(r"#.*|\*\*.*?\*\*|", part)[0]
            named = "by hand" in label.lower()
            by_hand = named if label.startswith("#") else by_hand
            found += [] if by_hand or named else _typed(part)
        yield found


def in_code(tree: ast.Module) -> list[str]:
    """The typed numbers of the texts that code shows; what an f-string fills in is not typed."""
    found: list[str] = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in SHOWING:
            for arg in call.args:
                pieces = arg.values if isinstance(arg, ast.JoinedStr) else [arg]
                text = "".join(
                    piece.value if isinstance(piece, ast.Constant) and isinstance(piece.value, str) else "…"
                    for piece in pieces
                )
                found += _typed(SPAN.sub(_stand_in, text))
    return found


def _sourceless(quotation: re.Match[str]) -> str:
    return "" if re.search(r"paper|arxiv|\]\(http", quotation[0], re.I) else quotation[0]


def _stand_in(span: re.Match[str]) -> str:
    """Code and formulas are passed over, but for a setting's name alone, and for a number alone, which hides nothing."""
    plain = re.sub(r"\\([%_])|\\[,;:! ]", r"\1", span[0]).strip("`$\\()[]{} \n").replace("_", " ")
    return plain if re.fullmatch(rf"{SETTING}|[-−+≈~]?{NUMBER}\s*%?", plain, re.I) else "…"


def _typed(text: str) -> list[str]:
    text = TABLE.sub(_unexplained, text.replace("*", "").replace("_", " "))
    for pattern in NO_RESULTS:
        text = pattern.sub(" … ", text)
    return [found.strip() for found in TYPED.findall(text)]


def _unexplained(table: re.Match[str]) -> str:
    """The cells of a table but for the columns that are headed by a time, a size or a setting."""
    rows = [line.strip().strip("|").split("|") for line in table[0].splitlines()]
    kept = (cell for row in rows for head, cell in zip(rows[0], row, strict=False) if not HEADED.fullmatch(head))
    return "\n".join(kept) + "\n"
