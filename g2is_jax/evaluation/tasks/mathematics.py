"""Comparison of mathematical answers: by value, entry by entry, else by their text."""

import ast
import math
import re
import zlib
from fractions import Fraction

from g2is_jax.evaluation.tasks.latex import plain

Value = Fraction | float
LONGEST = 150  # characters of an expression that is worked out
MOST_BITS = 4096  # of an exact power
CLOSE = 1e-9  # relative, between values of which one is irrational
TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\?[a-zA-Z]+|[-+*/^()])")
SYMBOLS = {"pi", "theta", "alpha", "beta", "infty"}
OPENING, CLOSING = "([«", ")]»"


def same_mathematics(found: str, wanted: str) -> bool:
    """Tells whether two answers are equal.

    Numbers and expressions: the same value, exactly where it is rational, and at one arbitrary
    point where there are variables. Tuples and intervals: the same brackets, and equal entries in
    order. Sets, lists and unions: equal entries in any order. Anything else: the same text.
    """
    return _same(plain(found), plain(wanted))


def _same(found: str, wanted: str) -> bool:
    if not found.strip():
        return False
    if _text(found) == _text(wanted):
        return True
    for separator in ("∪", ","):
        (own_marks, own), (marks, parts) = _parts(found, separator), _parts(wanted, separator)
        if len(own) != len(parts):
            return False
        if len(parts) > 1:
            return own_marks == marks and _all_same(own, parts, ordered=marks != "")
    value, asked = evaluate(own[0]), evaluate(parts[0])
    return value is not None and asked is not None and _equal(value, asked)


def _parts(text: str, separator: str) -> tuple[str, list[str]]:
    """Returns the brackets around an answer ("" for a list or set) and the parts in them."""
    text = text.strip()
    marks = ""
    if separator == "," and text[:1] in tuple(OPENING) and _closes_last(text):
        inside = _split(text[1:-1], separator)
        if len(inside) > 1 or text[0] == "«":
            marks, text = text[0] + text[-1], text[1:-1]
    parts = _split(text, separator)
    if separator == ",":
        parts = [sign for part in parts for sign in _both_signs(part)]
    return ("" if marks == "«»" else marks), parts


def _closes_last(text: str) -> bool:
    """Tells whether the bracket that opens the text closes at its end, as that of [0, 1) does."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in OPENING) - (sign in CLOSING)
        if depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str, separator: str) -> list[str]:
    """Splits at the separators that no bracket holds."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in OPENING) - (sign in CLOSING)
        if sign == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _both_signs(text: str) -> list[str]:
    """Makes two answers of one that is written with a plus-minus sign."""
    return [text.replace("±", "+"), text.replace("±", "-")] if "±" in text else [text]


def _all_same(found: list[str], wanted: list[str], ordered: bool) -> bool:
    if ordered:
        return all(_same(entry, other) for entry, other in zip(found, wanted, strict=True))
    left = list(found)
    for other in wanted:
        match = next((entry for entry in left if _same(entry, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _text(answer: str) -> str:
    """Removes blanks and brackets around one sign; words get lower case."""
    text = re.sub(r"\s+", "", answer)
    text = re.sub(r"(?<=[_^])\((\w)\)", r"\1", text)
    return text.lower() if re.fullmatch(r"\(?[A-Za-z]\)|[A-Za-z-]{2,}", text) else text


def _equal(a: Value, b: Value) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    try:
        return math.isclose(a, b, rel_tol=CLOSE)
    except OverflowError:  # one is exact and beyond what the other could be
        return False


def evaluate(expression: str) -> Value | None:
    """Returns the value of an expression, at one fixed point of its variables; None without one."""
    if len(expression) > LONGEST:
        return None
    try:
        source, names = _as_python(expression)
        return _value(ast.parse(source, mode="eval").body, names)
    except (SyntaxError, ArithmeticError, ValueError):
        return None


def _as_python(expression: str) -> tuple[str, dict[str, Value]]:
    """Writes Python's notation, with all products; returns also the value of each name in it."""
    names: dict[str, Value] = {}
    source, place, operand = "", 0, False
    while expression[place:].strip():
        token = TOKEN.match(expression, place)
        if token is None:
            raise ValueError(f"no expression: {expression[place:]}")
        for sign in _signs(token[1]):
            if sign[0].isalnum() or sign[0] == ".":
                name = f"n{len(names)}"
                names[name] = _operand_value(sign)
                sign = name
            source += "*" if operand and (sign == "(" or sign[0] == "n") else ""
            source += "**" if sign == "^" else sign
            operand = sign == ")" or sign[0] == "n"
        place = token.end()
    return source, names


def _signs(token: str) -> list[str]:
    """Splits letters side by side into factors; ValueError for a word that is no symbol."""
    name = token.removeprefix("\\")
    if not name.isalpha() or name in SYMBOLS:
        return [name]
    if token != name or len(name) > 2:
        raise ValueError(f"{token} is not a symbol")
    return list(name)


def _operand_value(name: str) -> Value:
    """Returns the value of a number or pi; for a variable, a positive rational made of its name."""
    if name == "pi":
        return math.pi
    if name.isalpha():
        return Fraction(zlib.crc32(name.encode()) % 9973 + 2, 1009)
    return Fraction(name)


def _value(node: ast.expr, names: dict[str, Value]) -> Value:
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, names)
        return -operand if isinstance(node.op, ast.USub) else operand
    if not isinstance(node, ast.BinOp):
        raise ValueError("not an operation")
    left, right = _value(node.left, names), _value(node.right, names)
    if isinstance(node.op, ast.Pow):
        return _power(left, right)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    return left * right if isinstance(node.op, ast.Mult) else left / right


def _power(base: Value, exponent: Value) -> Value:
    """Computes a power, exactly where both allow it; ValueError where it is no real number."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator == 1 and bits * abs(exponent.numerator) <= MOST_BITS:
            return base**exponent.numerator
    power = float(base) ** float(exponent)
    if isinstance(power, complex):
        raise ValueError("not a real number")
    return power
