"""Output for terminals of few letters, and without the errors of late writes."""

import io
import sys

from g2is_jax.runs.terminal import prepare_output


def test_letters_that_the_terminal_lacks_are_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    prepare_output()
    print("gr\u00fcn \u6f22", flush=True)
    assert written.getvalue() == b"gr\\xfcn \\u6f22\n"


def test_late_errors_of_a_failed_save_are_not_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    prepare_output()
    for message in ("Event loop is closed", "of our own"):
        sys.excepthook(RuntimeError, RuntimeError(message), None)
    assert capsys.readouterr().err == "RuntimeError: of our own\n"
