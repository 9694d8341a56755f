"""Today's date in a chat template: whether it is written there, and how it is held fixed."""

import datetime
import re

DATE_STRING = re.compile(r"\bdate_string\b")
# The template has a date of its own where no other is given.
HAS_DEFAULT = re.compile(
    r"date_string\s+is\s+(not\s+)?defined|not\s+date_string|date_string\s*\|\s*default"
    r"|set\s+date_string"
)
DIRECTIVES = "aAbBcdDeFgGhHIjmMnpSTuUVwWxXyYzZ"


def writes_now(template: str) -> bool:
    """Tells whether a template asks for the present time."""
    return "strftime_now" in template


def takes_date_string(template: str) -> bool:
    """Tells whether a template writes a date that has to be given."""
    return bool(DATE_STRING.search(template)) and not HAS_DEFAULT.search(template)


def date_macro(today: datetime.date) -> str:
    """Returns a macro that stands for `strftime_now` in a template, at midnight of a day.

    transformers has no argument for it: what is given to a template can be no function.
    """
    directives = [f"%{flag}{letter}" for letter in DIRECTIVES for flag in ("", "-")]
    values = {directive: today.strftime(directive) for directive in directives}
    known = "".join(f"|replace({d!r},{v!r})" for d, v in values.items() if "%" not in v)
    return f"{{% macro strftime_now(format) %}}{{{{ format{known} }}}}{{% endmacro %}}"
