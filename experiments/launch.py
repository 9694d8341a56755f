"""Flags and errors of every script: `--config`, overridable and locked, and `--workdir`."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from logging import CRITICAL, getLogger
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up notes

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from configs import default
from g2is_jax.pipeline.command_line import parse_config, started_with
from g2is_jax.pipeline.trackers import tracking
from g2is_jax.runs.backend import start_backend
from g2is_jax.runs.errors import FAILED, InputError, StoreLost
from g2is_jax.runs.lock import locked
from g2is_jax.runs.processes import end, is_first, start
from g2is_jax.runs.stopping import STOPPED, sigterm_heeded
from g2is_jax.runs.storage import naming_failures, path_of
from g2is_jax.runs.terminal import prepare_output, printable


def launch(
    run: Callable[[ConfigDict, epath.Path], Any],
    instead: Callable[[ConfigDict], bool] = lambda config: False,
    needs_config: bool = True,
) -> None:
    """Parse the flags, then call `run(config, workdir)`; a user's mistake ends in one line.

    instead: called first; true if nothing is left to do. needs_config: else it may be the folder's.
    """
    config_flag = config_flags.DEFINE_config_file("config", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Folder of stages and results.")
    together = flags.DEFINE_bool("distributed", False, "One run of several processes.")
    address = flags.DEFINE_string("coordinator", None, "Its first process, HOST:PORT.")
    processes = flags.DEFINE_integer("processes", None, "How many they are.")
    process = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
    profile = flags.DEFINE_string("profile", None, "Folder for a trace of jax's profiler.")
    flags.mark_flags_as_required(["config", "workdir"] if needs_config else ["workdir"])
    jax.config.config_with_absl()

    def main(_) -> None:
        logging.set_verbosity(logging.FATAL)  # orbax logs every step of every save
        getLogger("gcsfs").setLevel(CRITICAL)  # an error is reported once, here
        if instead(config_flag.value):
            return
        if together.value:
            start(address.value, processes.value, process.value)
        start_backend()
        place = path_of(workdir.value)
        with contextlib.ExitStack() as stack:
            stack.enter_context(sigterm_heeded())
            stack.enter_context(naming_failures(place))
            if is_first():
                stack.enter_context(locked(place))
            else:  # the first process prints for all
                nowhere = stack.enter_context(open(os.devnull, "w", errors="replace"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            if profile.value:
                stack.enter_context(jax.profiler.trace(str(path_of(profile.value))))
            tracking(run)(config_flag.value or started_with(place, default.get_config()), place)

    run_or_explain(main, parse_config)


def run_or_explain(main: Callable[[Sequence[str]], None], parse: Callable) -> None:
    """Call absl's `run`; a user's mistake ends in one line and status 2, a lost store in 75."""
    prepare_output()
    try:
        app.run(main, flags_parser=parse)
    except (InputError, StoreLost) as error:
        print("error:", "\n".join(printable(str(line)) for line in error.args), file=sys.stderr)
        status = STOPPED if isinstance(error, StoreLost) else FAILED
        end(status)
        sys.exit(status)
    except SystemExit as left:
        if left.code:
            end(left.code if isinstance(left.code, int) else FAILED)
        raise
    except BaseException:
        end(1, traceback.format_exc())
        raise
