"""Questions to the features of a pool: what pulls towards a reply, what is like a row, what is
there twice.

The pool's features must be finished; those of the rows that are asked about are a stage of the
same work folder, so that a question that is asked again is answered at once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.files import RowReader
from g2is_jax.data.records import Record, prompt
from g2is_jax.evaluation.compare import SUBJECT
from g2is_jax.features.rows import Rows, unit_length
from g2is_jax.pipeline import method_inputs
from g2is_jax.pipeline.datasets import Dataset, read_dataset
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.pipeline.job_stages import Stages
from g2is_jax.report.page.blocks import Page, Section
from g2is_jax.report.page.found_rows import FoundList, FoundRow, section
from g2is_jax.report.page.html import html
from g2is_jax.report.page.markdown import markdown
from g2is_jax.report.page.reasons import shortened
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import shared_mesh
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.selection.methods import FEATURES, needing
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.rivals.similarity import similarities

QUERIES = "queries"  # folder of a work folder
MOST_ALIKE = 100  # nearest rows of each row, among which near-duplicates are looked for


@dataclass(frozen=True)
class Question:
    """Holds what is asked, one of: a file of `rows`, a `prompt` with its `reply`, the id of a
    `pool_row`, or pairs of pool rows whose cosine is at least `duplicates`.

    count: rows in each list of the answer.
    """

    rows: str = ""
    prompt: str = ""
    reply: str = ""
    pool_row: str = ""
    duplicates: float | None = None
    count: int = 10

    def __post_init__(self):
        asked = [self.rows, self.prompt, self.pool_row, self.duplicates is not None]
        if sum(map(bool, asked)) != 1:
            raise InputError(
                "ask one thing: --rows=FILE, --prompt=TEXT --reply=TEXT, --pool_row=ID or "
                "--duplicates=COSINE"
            )
        if bool(self.prompt) != bool(self.reply):
            raise InputError("--prompt and --reply: a gradient needs both, the prompt and a reply")
        if self.duplicates is not None and not 0 < self.duplicates <= 1:
            raise InputError(f"--duplicates: {self.duplicates} must be above 0 and at most 1")
        if self.count < 1:
            raise InputError(f"--count: {self.count} must be 1 or more")


def run(config: ConfigDict, workdir: epath.Path, question: Question) -> epath.Path:
    """Answer a question on the terminal, as a page and as JSON; returns the folder of these."""
    finished = open_job(config, workdir, builds=False, measures=False)
    seed = finished.settings.seeds[0]
    methods = needing(finished.settings.selection.methods, FEATURES)
    method = methods[0] if methods and SUBJECT not in methods else SUBJECT
    pool = method_inputs.load_features(finished, finished.data.pool, method, seed)
    job = dataclasses.replace(finished, stages=Stages(workdir, shows=False))
    if question.pool_row:
        sections = [_of_pool_row(job.data.pool, pool, question)]
    elif question.duplicates is not None:
        sections = [_duplicates(job.data.pool, pool, question.duplicates, question.count)]
    else:
        sections = _of_rows(job, method, pool, question, seed)
    asked = json.dumps([dataclasses.asdict(question), method, seed], sort_keys=True)
    folder = workdir / QUERIES / hashlib.sha256(asked.encode()).hexdigest()[:12]
    if is_first():
        page = Page(f"Asked of {job.data.pool.name}", [part for part, _ in sections])
        answer = [dataclasses.asdict(of) for _, lists in sections for of in lists]
        make_folder(folder)
        write_atomic(folder / "answer.json", json.dumps(answer, indent=2) + "\n")
        write_atomic(folder / "query.html", html(page))
        print(f"{markdown(page)}\nquery: {folder / 'query.html'}")
    wait_for_all("query answered")
    return folder


Answered = tuple[Section, list[FoundList]]


def _of_rows(job: Job, method: str, pool: Rows, question: Question, seed: int) -> list[Answered]:
    """Finds what pulls towards the replies of rows and against them, all together, then each."""
    dataset = _asked_rows(job, question)
    asked = method_inputs.load_features(job, dataset, method, seed)
    usable = np.flatnonzero(asked.finite_N)
    if not len(usable):
        raise InputError(f"{dataset.path}: no row has a gradient that is finite")
    cosines_MN = similarities(pool, unit_length(np.asarray(asked[usable], np.float64)))
    answers = []
    if len(usable) > 1:
        about = f"The {len(usable):,} rows of {dataset.path}, by the mean of the cosines to each."
        lists = _pulls(job.data.pool, pool.finite_N, cosines_MN.mean(axis=0), question.count)
        answers.append((section("All rows together", about, lists), lists))
    for index, cosines_N in zip(usable, cosines_MN, strict=True):
        record = dataset.records[int(index)]
        lists = _pulls(job.data.pool, pool.finite_N, cosines_N, question.count)
        about = f"{shortened(prompt(record))} -> {shortened(_reply(record))}"
        answers.append((section(f"Row {record.id}", about, lists), lists))
    return answers


def _asked_rows(job: Job, question: Question) -> Dataset:
    """The rows that are asked about; those of the command line as a file of the work folder."""
    path = epath.Path(question.rows)
    if question.prompt:
        turns = [
            {"role": "user", "content": question.prompt},
            {"role": "assistant", "content": question.reply},
        ]
        text = json.dumps({"messages": turns}) + "\n"
        folder = job.stages.workdir / QUERIES
        path = folder / f"asked-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
        if is_first():
            make_folder(folder)
            write_atomic(path, text)
        wait_for_all("rows of the question written")
    data = job.settings.data
    reader = RowReader(path, columns=data.columns if question.rows else ())
    return read_dataset(reader, "stop", job.data.chat, data.max_length)


def _pulls(pool: Dataset, shown_N, cosines_N, count: int) -> list[FoundList]:
    """The rows, of those of a mask, with the largest and the smallest cosines; equal ones by lower
    index."""
    usable = np.flatnonzero(shown_N)
    order = usable[np.argsort(-cosines_N[usable], kind="stable")]
    back = usable[np.argsort(cosines_N[usable], kind="stable")]
    return [
        FoundList("Pull towards it", _found(pool, order[:count].tolist(), cosines_N)),
        FoundList("Pull against it", _found(pool, back[:count].tolist(), cosines_N)),
    ]


def _of_pool_row(pool: Dataset, rows: Rows, question: Question) -> Answered:
    """The pool rows like one of them, and those against it."""
    places = np.flatnonzero(pool.records.ids_N == question.pool_row)
    if not len(places):
        raise InputError(f"--pool_row: {pool.path} has no usable row with the id "
                         f"{question.pool_row!r}")  # fmt: skip
    own = int(places[0])
    [cosines_N] = similarities(rows, unit_length(np.asarray(rows[own : own + 1], np.float64)))
    others_N = rows.finite_N & (np.arange(len(rows)) != own)
    lists = _pulls(pool, others_N, cosines_N, question.count)
    record = pool.records[own]
    about = f"{shortened(prompt(record))} -> {shortened(_reply(record))}"
    return section(f"Pool row {record.id}", about, lists), lists


def _duplicates(pool: Dataset, rows: Rows, least: float, count: int) -> Answered:
    """The pairs of pool rows whose cosine is at least this, the most alike first."""
    near = min(MOST_ALIKE, len(rows) - 1)
    indices_NE, cosines_NE = neighbours(rows, near, shared_mesh())
    alike_NE = (cosines_NE >= least) & (indices_NE > np.arange(len(rows))[:, None])
    firsts, places = np.nonzero(alike_NE)
    order = np.argsort(-cosines_NE[firsts, places], kind="stable")
    lists = []
    for first, place in zip(firsts[order[:count]], places[order[:count]], strict=True):
        cosine_N = {int(first): 1.0, int(indices_NE[first, place]): cosines_NE[first, place]}
        lists.append(FoundList("Alike", _found(pool, list(cosine_N), cosine_N)))
    about = (
        f"{len(order):,} pairs have a cosine of at least {least:g}; the first {len(lists):,} "
        "of them, the most alike first."
    )
    return section("Rows that are nearly the same", about, lists), lists


def _found(pool: Dataset, places: Sequence[int], cosines_N) -> list[FoundRow]:
    tokens_N, found = pool.tokens_N, []
    for place in map(int, places):
        record, tokens, cosine = pool.records[place], int(tokens_N[place]), float(cosines_N[place])
        texts = prompt(record), _reply(record)
        found.append(FoundRow(place, record.id, record.source, tokens, cosine, *texts))
    return found


def _reply(record: Record) -> str:
    """The last reply of a row."""
    return next(m.content for m in reversed(record.messages) if m.role == "assistant")
