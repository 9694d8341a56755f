"""Answers in LaTeX as plain expressions: `\\dfrac{1}{2}\\text{ cm}` is `((1)/(2))`."""

import re

from g2is_jax.evaluation.tasks.answers import own_part, stated

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
UNIT = r"(?:[A-Za-z]{3,}|cm|mm|km|kg|mg|in|ft|yd|lb|oz|mi|am|pm)"
WORD_COMMAND = r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|textit|operatorname)"
# In order; what stands in set braces gets the marks « and », as grouping braces become brackets.
PLAINER = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"[−–]", "-"),
        (r"×|·|\\times(?![a-z])|\\cdot(?![a-z])", "*"),
        (r"÷|\\div(?![a-z])", "/"),
        (r"π", r"\\pi "),
        (r"∞", r"\\infty "),
        (r"√|(?<![\\a-zA-Z])sqrt(?![a-z])", r"\\sqrt "),
        (r"∪|\\cup(?![a-z])", "∪"),
        (r"±|\\pm(?![a-z])", "±"),
        (r"²", "^2"),
        (r"³", "^3"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
        (r"\\\{", "«"),
        (r"\\\}", "»"),
        (r"\\!|\{(?=,\})|(?<=,)\}", ""),
        (r"(?<=\d)\\,(?=\d{3})", ""),
        (r"(?<!\\)\\[,;: ]|~", " "),
        (r"\\?[$%]|\*\*", ""),
        (r"\^\s*\{?\\circ\}?|°|\\degrees?|\bdegrees?\b", ""),
        (WORD_COMMAND + r"\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b", ","),
        (r"(?<=[\d})])\s*" + WORD_COMMAND + r"\s*\{[^{}]*\}(?:\^\{?\d\}?)?", ""),
        (WORD_COMMAND + r"\s*\{([^{}]*)\}", r"\1"),
        (r"(?<=[\d)}])\s+" + UNIT + r"(?:\^\{?\d\}?)?(?:\s[\w\s]*)?$", ""),
        (r"^\s*(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?|\([A-Za-z]\))?\s*(?:=|\\in(?![a-z]))", ""),
        (r"\\leq(?![a-z])", r"\\le"),
        (r"\\geq(?![a-z])", r"\\ge"),
    )
]
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
MIXED = re.compile(r"(?<![\w.^)])(\d+)\s*\(\((\d+)\)/\((\d+)\)\)|(?<![\w.^)])(\d+)\s+(\d+)/(\d+)")


def read_mathematics(reply: str) -> str:
    """Returns what the last \\boxed holds, else the stated answer, else a reply of one line."""
    text = own_part(reply)
    found = boxed(text)
    if found is None:
        found = stated(text)
    if found is None:
        found = "" if "\n" in text else text
    return found.strip()


def boxed(text: str) -> str | None:
    """Returns the content of the last \\boxed or \\fbox whose braces close; None without one."""
    for match in reversed(list(BOX.finditer(text))):
        if match.end() < len(text):
            try:
                return argument(text, match.end())[0]
            except ValueError:  # cut off within the braces
                continue
    return None


def argument(text: str, place: int) -> tuple[str, int]:
    """Returns a command's argument (a group in braces, or one sign) and the place behind it."""
    while text[place : place + 1].isspace():
        place += 1
    if place >= len(text):
        raise ValueError("the argument is absent")
    if text[place] not in "{(":
        whole = re.compile(r"\\[a-zA-Z]+|[^\s$]").match(text, place)
        if whole is None:
            raise ValueError("the argument is absent")
        return whole[0], whole.end()
    opening, closing, depth = text[place], "}" if text[place] == "{" else ")", 0
    for end in range(place, len(text)):
        depth += (text[end] == opening) - (text[end] == closing)
        if depth == 0:
            return text[place + 1 : end], end + 1
    raise ValueError("the brackets do not close")


def plain(answer: str) -> str:
    """Writes an answer as an expression of + - * / ^ ( ) and sqrt, without units and decoration."""
    inside = boxed(answer)
    text = (answer if inside is None else inside).strip().rstrip(".").strip()
    for pattern, replacement in PLAINER:
        text = pattern.sub(replacement, text)
    text = text.strip()
    if text[:1] not in ("(", "[", "«"):  # there a comma sets entries apart
        text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    try:
        text = _with_fractions(text)
    except ValueError:
        return text
    return MIXED.sub(_sum, text.replace("{", "(").replace("}", ")"))


def _with_fractions(text: str) -> str:
    """Writes \\frac and \\sqrt with their arguments as quotients and powers, inside out."""
    for command, arguments in (("\\frac", 2), ("\\sqrt", 1)):
        while (start := text.rfind(command)) >= 0:
            place, root = start + len(command), "2"
            if command == "\\sqrt" and (index := re.compile(r"\s*\[(\w+)\]").match(text, place)):
                root, place = index[1], index.end()
            parts = []
            for _ in range(arguments):
                part, place = argument(text, place)
                parts.append(f"({part})")
            quotient = "/".join(parts) if arguments == 2 else f"{parts[0]}^(1/{root})"
            text = f"{text[:start]}({quotient}){text[place:]}"
    return text


def _sum(match: re.Match) -> str:
    whole, above, below = (part for part in match.groups() if part is not None)
    return f"({whole}+{above}/{below})"
