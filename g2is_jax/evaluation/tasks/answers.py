"""Rules that read an answer out of a reply, and that tell whether it is right."""

import re
from decimal import Decimal
from fractions import Fraction

MARK = re.compile(r"\banswer is\b:?|####", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w./])-?\d+(?:\.\d+)?(?!\d|/\d)")
CHOICE = re.compile(r"\(([a-z])\)|([a-z])(?:[.:),]|$)")

RUN_ON = re.compile(r"\n\s*(?:Question|Problem|Exercise|Q)\s*\d*\s*:|<\|user\|>")
STATED = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)|####", re.IGNORECASE)
SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
NUMERAL = re.compile(
    r"(?<![\w.])(?P<sign>-?)(?:(?P<mixed>\d+)\s+(?=\d+/\d))?"
    r"(?P<value>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:\s?/\s?(?P<below>0*[1-9]\d*))?"
)
GOES_ON = re.compile(r"\s*[-+*/×÷=^]\s*[\d($]")
LETTER = re.compile(r"\(?([A-Za-z])(?:[).:,]|\s*$|(?=\s+(?:because|since|as|for|which|is)\b))")
MOST_DIGITS = 4000  # Python reads no whole number of over 4,300
VERDICTS = {"yes", "no", "true", "false", "valid", "invalid"}


# The generic task: one answer of any kind, at the end of the reply or after a mark.


def extract_answer(reply: str) -> str:
    """Returns the rest of the line after the last "answer is" or "####", or all without either."""
    parts = MARK.split(reply)
    return parts[-1].partition("\n")[0].strip() if len(parts) > 1 else reply.strip()


def normalise(answer: str) -> str:
    """Removes case, blanks, a final full stop, dollar signs, bold marks, thousands separators."""
    text = " ".join(re.sub(r"\$|\*\*", "", answer).lower().split()).rstrip(". ")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def is_correct(reply: str, answer: str) -> bool:
    """Tells whether the reply gives the answer, compared by the answer's own kind.

    A number: the last number there has the same value (3.50 is 3.5, and a unit may follow). One
    letter, in brackets or not: the choice that comes first. Anything else: the same text.
    """
    found, wanted = normalise(extract_answer(reply)), normalise(answer)
    if NUMBER.fullmatch(wanted):
        numbers = NUMBER.findall(found)
        return bool(numbers) and Decimal(numbers[-1]) == Decimal(wanted)
    if CHOICE.fullmatch(wanted):
        choice = CHOICE.match(found)
        return choice is not None and choice[choice.lastindex or 0] == wanted.strip("().:,")
    return found == wanted


# Readers that the benchmarks' own rules share.


def own_part(reply: str) -> str:
    """Returns the reply up to where it runs on into a further question of its own making."""
    return RUN_ON.split(reply.strip(), maxsplit=1)[0]


def stated(reply: str) -> str | None:
    """Returns the sentence after the last "answer is", "answer:" or "####" that text follows."""
    parts = [part.strip() for part in STATED.split(own_part(reply).replace("**", ""))[1:]]
    said = [part for part in parts if part.strip(".")]
    return SENTENCE_END.split(said[-1])[0].strip() if said else None


def stated_or_all(reply: str) -> str:
    """Returns what is stated; where nothing is, the reply's own part."""
    found = stated(reply)
    return own_part(reply) if found is None else found


# Numbers.


def numerals(text: str) -> list[str]:
    """Finds each number as it is written: with separators, as a fraction or a mixed number."""
    return [match[0] for match in NUMERAL.finditer(_plain_numbers(text))]


def number(numeral: str) -> Fraction | None:
    """Returns the value of the first number in a text, of at most MOST_DIGITS."""
    match = NUMERAL.search(_plain_numbers(numeral))
    if match is None or len(match[0]) > MOST_DIGITS:
        return None
    value = Fraction(match["value"].replace(",", "")) / int(match["below"] or 1)
    value += int(match["mixed"] or 0)
    return -value if match["sign"] else value


def same_number(found: str, wanted: str) -> bool:
    """Tells whether both are numbers of equal value."""
    return number(found) is not None and number(found) == number(wanted)


def strict_numeral(reply: str) -> str:
    """Returns the last number right behind "####" or "answer is" that no operation follows."""
    read = ""
    for rest in MARK.split(_plain_numbers(own_part(reply)))[1:]:
        match = NUMERAL.match(rest.lstrip())
        if match and not GOES_ON.match(rest.lstrip(), match.end()):
            read = match[0]
    return read


def last_numeral(reply: str) -> str:
    """Returns the last number of the reply's own part."""
    return (numerals(own_part(reply)) or [""])[-1]


def stated_numeral(reply: str) -> str:
    """Returns the stated number, behind an equals sign if there is one; else the last of all."""
    said = numerals((stated(reply) or "").rpartition("=")[2])
    return said[0] if said else last_numeral(reply)


def _plain_numbers(text: str) -> str:
    """Removes currency and bold marks; makes minus signs and thousands separators plain."""
    text = re.sub(r"[−–]", "-", text).replace("{,}", ",")
    return re.sub(r"\\?[$€£¥]|\*\*|\\[!,]", "", text)


# Choices.


def choice_letter(reply: str) -> str:
    """Returns the letter of the choice that is stated or begins the reply; "" without one.

    Where neither is, the one letter that stands in brackets. A bare letter has to end a clause: the
    "A" of "A dog" is no choice.
    """
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s*|[{}$]|\*\*", "", stated_or_all(reply))
    text = re.sub(r"(?i)^\W*(?:option|choice)\s+", "", text.strip())
    match = LETTER.match(text)
    if match:
        return match[1].upper()
    bracketed = set(re.findall(r"\(([A-Z])\)", text))
    return bracketed.pop() if len(bracketed) == 1 else ""


def same_choice(found: str, wanted: str) -> bool:
    """Tells whether both name the same letter."""
    return found != "" and found == choice_letter(wanted)


# Short answers of any kind, as those of BIG-Bench-Hard.


def same_answer(found: str, wanted: str) -> bool:
    """Tells whether a stated answer is the wanted one, compared by the wanted one's own kind.

    One letter: a choice. A number: that value, behind an equals sign if there is one. Yes, true,
    valid and their contraries: the first word. Anything else: the same words and signs in order,
    whatever case, commas, quotes and blanks.
    """
    if re.fullmatch(r"\(?[A-Za-z]\)?", wanted.strip()):
        return same_choice(choice_letter(found), wanted)
    if NUMERAL.fullmatch(wanted.strip()):
        return same_number(found.rpartition("=")[2], wanted)
    if wanted.strip().lower() in VERDICTS:
        return _words(found)[:1] == _words(wanted)
    return _words(found) == _words(wanted)


def _words(text: str) -> list[str]:
    """Splits a text into words and single signs, without what only sets them apart."""
    return re.findall(r"[\w'-]+|[^\s\w,;.:!\"'`*]", text.lower())
