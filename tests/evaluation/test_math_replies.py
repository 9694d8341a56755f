"""Recorded replies to mathematics problems, and when two answers are the same."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2is_jax.evaluation.tasks.latex import boxed, read_mathematics
from g2is_jax.evaluation.tasks.mathematics import evaluate, same_mathematics
from g2is_jax.evaluation.tasks.reply_metrics import METRICS

# Each line: answers that are all the same, and that no other line has.
SAME = [
    (r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac12", r"\frac1{2}", "1/2", "0.5", ".5", r"\frac{2}{4}",
     r"$\frac{1}{2}$", "0.50", r"\frac{\sqrt{4}}{4}", r"2^{-1}"),
    (r"1\frac{1}{2}", "1 1/2", "1.5", r"\frac{3}{2}", r"3\div2", r"1.5 \text{ cm}"),
    (r"-\frac{7}{3}", r"\frac{-7}{3}", "-7/3", r"−\frac{7}{3}", r"-2\frac{1}{3}"),
    ("10,000", "10000", r"10{,}000", r"10,\!000", r"\$10,000", r"10\,000", "10^4", r"10000\%"),
    ("90", r"90^\circ", r"90^{\circ}", "90°", "90 degrees", r"90\text{ degrees}", r"x = 90",
     r"90\text{ cm}^2", "90 square inches", "90.", r"\boxed{90}", r"\theta=90"),
    (r"2\sqrt{3}", r"\sqrt{12}", r"2\sqrt3", r"2\cdot\sqrt{3}", "2√3", "2sqrt(3)",
     r"\frac{6}{\sqrt{3}}"),
    (r"\sqrt[3]{5}", "5^{1/3}"),
    (r"(1, -2)", "(1,-2)", r"\left(1,-2\right)", r"\left( \frac{2}{2}, -2.0 \right)"),
    ("(-2,1)",),
    ("[0,1)", r"\left[0,1\right)", r"[0, \frac{3}{3})", r"x \in [0,1)"),
    ("[0,1]",),
    ("(0,1)",),
    (r"\{1,2\}", r"\{2, 1\}", "1,2", "2, 1", r"1 \text{ and } 2", "x=2 or 1", r"\frac{3\pm1}{2}"),
    ("1,2,3",),
    ("1,1",),
    (r"(-\infty,2)\cup(3,\infty)", r"(3, \infty) \cup (-\infty, 2)"),
    (r"(-\infty,2)",),
    (r"\frac{3\pi}{4}", r"\frac{3}{4}\pi", "3π/4", r"0.75\pi"),
    ("x^2+2x+1", "(x+1)^2", "1+2x+x^2", "(1+x)(x+1)", "f(x)=(x+1)^2"),
    ("x^2+2x+2",),
    ("2xy", "yx*2", r"2x\cdot y"),
    (r"\text{even}", "even", "Even", r"\text{ even }"),
    (r"\text{(B)}", "(B)", "(b)"),
    ("seat",),
    ("east",),
    (r"1234_{5}", "1234_5"),
    (r"\sin(2x)",),
    (r"2\sin(x)",),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}",),
    (r"x\le3", r"x \leq 3"),
    ("0.333",),
    (r"\frac{1}{3}",),
    (r"\sqrt{2}", "2^{0.5}"),
    ("1.41421",),
    ("33%",),
    ("-33",),
    (r"\frac{1}{0}",),
    ("9^{9^{9^{9}}}",),
    ("((((",),
]  # fmt: skip


@pytest.mark.parametrize("line", SAME)
def test_same(line):
    for first, other in itertools.product(line, repeat=2):
        assert same_mathematics(first, other), (first, other)


@pytest.mark.parametrize("number", range(len(SAME)))
def test_different(number):
    others = [answer for line in SAME[:number] + SAME[number + 1 :] for answer in line]
    for other in others:
        assert not same_mathematics(SAME[number][0], other), other
        assert not same_mathematics(other, SAME[number][0]), other


REPLIES = [
    (r"So $x=\boxed{5}$.", "5", 1),
    (r"\boxed{3} is wrong, so \boxed{5}", "5", 1),
    (r"\boxed{\frac{1}{1+\frac{1}{2}}}", r"\frac{2}{3}", 1),
    (r"\boxed{\text{even}}", "even", 1),
    (r"\fbox{5}", "5", 1),
    (r"$\boxed 5$", "5", 1),
    (r"\boxed{5} and then \boxed{\frac{1}{", "5", 1),
    (r"\boxed{ -3.50 }", r"-\frac{7}{2}", 1),
    (r"Hence $\boxed{10,\!000}$ ways.", "10000", 1),
    (r"\boxed{\$18.90}", "18.90", 1),
    (r"\boxed{\{1,2\}}", r"\{2,1\}", 1),
    (r"\boxed{120^\circ}. Check: 60+60.", "120", 1),
    (r"\boxed{x=4}", "4", 1),
    (r"\boxed{5}" "\n\nProblem: Find 6.\nSolution: \\boxed{6}", "5", 1),
    ("Final Answer: The final answer is $5$. I hope it is correct.", "5", 1),
    ("The final answer is 5.", "5", 1),
    (r"The answer is $\frac{1}{2}$.", "0.5", 1),
    (r"**Answer:** $(1,2)$", "(1, 2)", 1),
    ("The final answer is\n$$5$$", "5", 1),
    ("The answer is 4. No: the answer is 5.", "5", 1),
    (r"\frac{10}{2}", "5", 1),
    ("5", "5", 1),
    ("−5", "-5", 1),
    ("5 apples", "5", 1),
    ("", "5", 0),
    (r"\boxed{}", "5", 0),
    (r"\boxed", "5", 0),
    (r"\boxed{5", "5", 0),
    (r"\boxed{4}, as the answer is 5", "5", 0),
    (r"\boxed{5} is wrong, so \boxed{3}", "5", 0),
    ("We get 5.\nThat was hard.", "5", 0),
    (r"\boxed{(2,1)}", "(1,2)", 0),
    (r"\boxed{-5}", "5", 0),
    (r"\boxed{0.33}", r"\frac{1}{3}", 0),
    (r"\boxed{6}" "\nProblem 2: \\boxed{5}", "5", 0),
    ("no idea", "5", 0),
    (r"\boxed{5x}", "5", 0),
    (r"\boxed{50}", "5", 0),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "answer", "right"), REPLIES)
def test_replies(reply, answer, right):
    metric = METRICS["mathematics"]
    assert metric.score(metric.read(reply), answer) == right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"a \boxed{1} b \boxed{\frac{a}{b}} c", r"\frac{a}{b}"),
        (r"\boxed{a{b}c}d}", "a{b}c"),
        (r"\boxed7.", "7"),
        (r"\boxedness", None),
        ("none", None),
    ],
)
def test_boxed(text, found):
    assert boxed(text) == found


@given(st.fractions(), st.fractions())
def test_fractions_are_the_same_exactly_where_they_are_equal(a, b):
    latex = rf"\frac{{{a.numerator}}}{{{a.denominator}}}"
    assert same_mathematics(latex, f"{a.numerator}/{a.denominator}")
    assert same_mathematics(latex, f"{b.numerator}/{b.denominator}") == (a == b)


@given(st.text(alphabet="\\{}()[],^_+-*/=.$ 019xysqrtfacboedÉ√", max_size=200))
def test_no_text_is_an_error(text):
    """Whatever a model writes is read and compared, and is the same as itself if there is any."""
    found = read_mathematics(text)
    same_mathematics(found, "5")
    assert same_mathematics("5", found) == same_mathematics(found, "5")
    evaluate(text)
