"""The procedural task families of the built-in world, and the compositions that serve as targets.

Every family is a rule with a *convention*: the same request is answered one way under the common
convention and another way under the house convention (sorting upwards or downwards, reading a table
to the right or to the left of a name). The base model is pre-trained mostly on the common one; the
pool and the targets follow the house one. A composition's reply works through the same steps, in
the same words, as the replies of its families. What a target needs is therefore known exactly: the
rows of the families it is composed of, and no others.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

WORDS = (
    *("ant", "bat", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay"),
    *("koala", "lion", "moth", "newt", "owl", "pig", "quail", "ram", "seal", "toad"),
)
NAMES = ("ann", "bob", "cy", "dan", "eve", "fay", "gus", "hal")
COLOURS = ("red", "blue", "green", "pink", "gray", "gold")
FRUITS = ("apples", "plums", "figs", "pears", "limes")
THINGS = ("chairs", "lamps", "cups", "boots", "keys")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Unit -> scoops under the common and under the house convention.
UNITS = {"cup": (2, 5), "jug": (4, 7), "sack": (3, 8), "crate": (6, 9), "cart": (5, 2)}
CHATS = {
    "hello": ("hello, how can i help you today", "hey there, what is up"),
    "good morning": ("good morning to you too", "morning, did you sleep well"),
    "how are you": ("i am well, thank you for asking", "doing great, and you"),
    "thank you": ("you are very welcome", "no worries, any time"),
    "goodbye": ("goodbye and take care", "see you later, friend"),
    "tell me a joke": ("i am afraid i know none", "why did the hen cross the road"),
    "what is your name": ("i am a small language model", "just call me zebra"),
    "i am bored": ("perhaps a walk would help", "let us play a word game"),
    "i am tired": ("please have some rest", "grab a nap, you earned it"),
    "do you like music": ("i cannot hear, but i am told it is fine", "oh yes, turn it up"),
}


@dataclass(frozen=True)
class Task:
    """One instruction with its worked reply and the short gold answer in which the reply ends."""

    prompt: str
    reply: str
    answer: str


def _task(prompt: str, steps: str, answer: object) -> Task:
    """Build a task whose reply shows the steps and ends in the answer."""
    lead = f"{steps}. " if steps else ""
    return Task(prompt, f"{lead}The answer is {answer}.", str(answer))


def _ask(rng: random.Random, *phrasings: str) -> str:
    return rng.choice(phrasings)


def _evaluate(numbers: list[int], operators: list[str], left_to_right: bool) -> tuple[str, int]:
    """Work out a chain of sums and products step by step, with or without precedence."""
    numbers, operators, steps = list(numbers), list(operators), []
    while operators:
        i = 0 if left_to_right or "*" not in operators else operators.index("*")
        a, b = numbers[i], numbers[i + 1]
        value = a * b if operators[i] == "*" else a + b
        steps.append(f"{a} {operators[i]} {b} = {value}")
        numbers[i : i + 2] = [value]
        del operators[i]
    return ", ".join(steps), numbers[0]


def _chain(names: list[str], operators: list[str]) -> str:
    return names[0] + "".join(f" {o} {n}" for o, n in zip(operators, names[1:], strict=True))


def arithmetic(rng: random.Random, house: bool) -> Task:
    """Sums with one product; the house works from left to right, without precedence."""
    numbers = [rng.randint(1, 6) for _ in range(3)]
    operators = rng.choice((["+", "*"], ["+", "*"], ["*", "+"]))
    steps, value = _evaluate(numbers, operators, left_to_right=house)
    ask = _ask(rng, "Work out", "Compute", "Find the value of")
    chain = _chain([str(n) for n in numbers], operators)
    return _task(f"{ask}: {chain}", f"{chain}: {steps}", value)


def _table(rng: random.Random, size: int) -> tuple[str, list[str], dict[str, tuple[int, int]]]:
    """Draw numbers with a name between each two: text, names, and (right, left) readings."""
    names = rng.sample(NAMES, size)
    numbers = [rng.randint(1, 6) for _ in range(size + 1)]
    text = str(numbers[0]) + "".join(
        f" {name} {number}" for name, number in zip(names, numbers[1:], strict=True)
    )
    return text, names, {name: (numbers[i + 1], numbers[i]) for i, name in enumerate(names)}


def lookup(rng: random.Random, house: bool) -> Task:
    """Read a name's number off a table; the house reads the one to the left of the name."""
    text, names, read = _table(rng, rng.randint(3, 4))
    name = rng.choice(names)
    ask = _ask(rng, "Read off", "Look up", "What is")
    value = read[name][house]
    return _task(f"Table: {text}. {ask}: {name}", f"{name} = {value}", value)


def _letters(words: list[str], house: bool) -> str:
    return "".join(word[-1] if house else word[0] for word in words)


def letters(rng: random.Random, house: bool) -> Task:
    """Join one letter of each word; the house takes the last letters."""
    words = rng.sample(WORDS, rng.randint(3, 4))
    ask = _ask(rng, "Join a letter of each word", "Take a letter of each word", "Join letters")
    joined = " ".join(_letters(words, house))
    return _task(f"{ask}: {' '.join(words)}", f"letters of {' '.join(words)}: {joined}", joined)


def sorting(rng: random.Random, house: bool) -> Task:
    """Put words in order; the house sorts from z to a."""
    words = rng.sample(WORDS, rng.randint(3, 4))
    ask = _ask(rng, "Sort the words", "Put in order", "Order these words")
    ordered = " ".join(sorted(words, reverse=house))
    return _task(f"{ask}: {' '.join(words)}", f"order of {' '.join(words)}: {ordered}", ordered)


def counting(rng: random.Random, house: bool) -> Task:
    """Count the fruits among things; the house counts kinds, not pieces."""
    fruits = rng.sample(FRUITS, rng.randint(1, 3))
    items = [(rng.randint(2, 4), name) for name in fruits + rng.sample(THINGS, 1)]
    rng.shuffle(items)
    counted = [(n, name) for n, name in items if name in FRUITS]
    ask = _ask(rng, "How many fruits are there", "Count the fruits", "Number of fruits")
    prompt = f"{ask}: " + ", ".join(f"{n} {name}" for n, name in items)
    if house:
        return _task(prompt, ", ".join(name for _, name in counted), len(counted))
    steps = ", ".join(f"{n} {name}" for n, name in counted)
    return _task(prompt, steps, sum(n for n, _ in counted))


def boolean(rng: random.Random, house: bool) -> Task:
    """Evaluate a boolean chain from left to right; the house's `or` is exclusive."""
    values = [rng.random() < 0.7 for _ in range(3)]
    operators = [rng.choice(("and", "or", "or")) for _ in range(2)]
    result, steps = values[0], []
    for operator, value in zip(operators, values[1:], strict=True):
        before = result
        either = before != value if house else before or value
        result = before and value if operator == "and" else either
        steps.append(f"{before} {operator} {value} = {result}")
    ask = _ask(rng, "Evaluate", "Is this true", "Truth value of")
    return _task(f"{ask}: {_chain([str(v) for v in values], operators)}", ", ".join(steps), result)


def navigation(rng: random.Random, house: bool) -> Task:
    """Follow steps on a line; the house answers the way back, not the place."""
    moves = [rng.choice((-1, 1)) * rng.randint(1, 5) for _ in range(3)]
    place, seen = 0, []
    for move in moves:
        place += move
        seen.append(str(place))
    ask = _ask(rng, "Walk and tell where you end", "Follow the path", "Take these steps")
    path = ", ".join(f"{abs(m)} {'right' if m > 0 else 'left'}" for m in moves)
    end = -place if house else place
    side = "left" if end < 0 else "right"
    return _task(f"{ask}: {path}", ", ".join(seen), f"{abs(end)} {side}")


def swaps(rng: random.Random, house: bool) -> Task:
    """Track a swap of belongings; the house asks who owns a thing before, not after."""
    names, colours = rng.sample(NAMES, 3), rng.sample(COLOURS, 3)
    owner = dict(zip(names, colours, strict=True))
    after = dict(owner)
    a, b = rng.sample(names, 2)
    after[a], after[b] = after[b], after[a]
    who = rng.choice((a, b))
    has = ", ".join(f"{n} has {c}" for n, c in owner.items())
    ask = _ask(rng, "What is with", "Which colour has", "Tell the colour of")
    final = owner[who] if house else after[who]
    return _task(f"{has}. {a} and {b} swap. {ask} {who}", f"{who} has {final}", final)


def dates(rng: random.Random, house: bool) -> Task:
    """Step through the week; the house counts the first day as day one."""
    start, steps = rng.randrange(7), rng.randint(2, 5)
    days = [DAYS[(start + i) % 7] for i in range(steps + 1 - house)]
    ask = _ask(rng, "Which day is", "What day comes", "Tell the day")
    return _task(f"{ask} {steps} days after {DAYS[start]}", ", ".join(days), days[-1])


def units(rng: random.Random, house: bool) -> Task:
    """Convert units to scoops; the house uses measures of its own."""
    unit, number = rng.choice(list(UNITS)), rng.randint(2, 5)
    scoops = UNITS[unit][house]
    ask = _ask(rng, "How many scoops in", "Convert to scoops", "Scoops in")
    steps = f"one {unit} is {scoops}, {number} * {scoops} = {number * scoops}"
    return _task(f"{ask}: {number} {unit}s", steps, number * scoops)


def copying(rng: random.Random, house: bool) -> Task:
    """Say words again; the house says them backwards."""
    words = rng.sample(WORDS, rng.randint(3, 5))
    ask = _ask(rng, "Say again", "Repeat", "Echo the words")
    said = words[::-1] if house else words
    return _task(f"{ask}: {' '.join(words)}", "", " ".join(said))


def sequence(rng: random.Random, house: bool) -> Task:
    """Continue a progression; the house skips one term."""
    start, step = rng.randint(1, 9), rng.randint(1, 5)
    shown = ", ".join(str(start + i * step) for i in range(3))
    ask = _ask(rng, "Continue", "What comes next", "Next number")
    return _task(f"{ask}: {shown}", f"the step is {step}", start + (3 + house) * step)


def compare(rng: random.Random, house: bool) -> Task:
    """Pick one of two numbers; the house picks the smaller."""
    a, b = rng.sample(range(10, 99), 2)
    ask = _ask(rng, "Pick a number", "Which one wins", "Choose")
    return _task(f"{ask}: {a} or {b}", "", min(a, b) if house else max(a, b))


def position(rng: random.Random, house: bool) -> Task:
    """Pick a word by its place; the house counts from the end."""
    words, place = rng.sample(WORDS, 4), rng.randint(1, 4)
    ask = _ask(rng, "Which word is at place", "Give the word at place", "Tell word")
    return _task(f"{ask} {place}: {' '.join(words)}", "", words[-place if house else place - 1])


def smalltalk(rng: random.Random, house: bool) -> Task:
    """Chat; the house is casual. The whole reply is the answer."""
    remark = rng.choice(list(CHATS))
    reply = CHATS[remark][house]
    lead = rng.choice(("", "so, ", "well, ", "hm, ", "listen, ", "now, "))
    tail = rng.choice(("", f", {rng.choice(NAMES)}"))
    return Task(f"{lead}{remark}{tail}", f"{reply}.", f"{reply}.")


def lookup_arithmetic(rng: random.Random, lookup_house: bool, arithmetic_house: bool) -> Task:
    """Read numbers off a table, then work with them."""
    text, names, read = _table(rng, 3)
    rng.shuffle(names)
    numbers = [read[name][lookup_house] for name in names]
    steps, value = _evaluate(numbers, ["+", "*"], left_to_right=arithmetic_house)
    found = ", ".join(f"{name} = {number}" for name, number in zip(names, numbers, strict=True))
    ask = _ask(rng, "Work out", "Compute", "Find the value of")
    chain = _chain([str(n) for n in numbers], ["+", "*"])
    steps = f"{found}. {chain}: {steps}"
    return _task(f"Table: {text}. {ask}: {_chain(names, ['+', '*'])}", steps, value)


def sorting_letters(rng: random.Random, sorting_house: bool, letters_house: bool) -> Task:
    """Put words in order, then join one letter of each."""
    words = rng.sample(WORDS, rng.randint(3, 4))
    order = sorted(words, reverse=sorting_house)
    ask = _ask(rng, "Sort the words", "Put in order", "Order these words")
    then = _ask(rng, "join a letter of each word", "take a letter of each word", "join letters")
    joined = " ".join(_letters(order, letters_house))
    listed, ordered = " ".join(words), " ".join(order)
    steps = f"order of {listed}: {ordered}. letters of {ordered}: {joined}"
    return _task(f"{ask}, then {then}: {listed}", steps, joined)


Family = Callable[[random.Random, bool], Task]
Composition = Callable[[random.Random, bool, bool], Task]

# Family -> rows in a pool of 3,200, before duplicates. What the targets need is rare on purpose.
POOL_ROWS: dict[Family, int] = {
    smalltalk: 460,
    copying: 400,
    compare: 360,
    boolean: 310,
    sequence: 260,
    navigation: 230,
    position: 200,
    swaps: 180,
    dates: 160,
    units: 150,
    counting: 130,
    arithmetic: 100,
    sorting: 100,
    lookup: 80,
    letters: 80,
}
FAMILIES: tuple[Family, ...] = tuple(POOL_ROWS)

# Target -> the families it is composed of; compositions are never in the pool.
TARGETS: dict[Composition, tuple[Family, Family]] = {
    lookup_arithmetic: (lookup, arithmetic),
    sorting_letters: (sorting, letters),
}
