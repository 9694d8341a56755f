"""A folder of small tasks of lm-evaluation-harness, one of each kind, with data beside them."""

import json
from pathlib import Path

from g2is_jax.evaluation.harness_tasks import HarnessConfig

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
metadata: {{version: 3}}
"""
CHOICE = """
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
REPLY = """
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["%s"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: lower, filter: [{function: lowercase}, {function: take_first}]}
"""
TEXT = """
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
"""
GROUP = """
group: tiny_group
task: [tiny_first, tiny_second]
aggregate_metric_list: [{metric: acc, weight_by_size: false}]
metadata: {version: 1}
"""


def write_task(folder: Path, name: str, kind: str, more: str, rows: list[dict]) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=file, kind=kind) + more)


def write_tasks(
    folder: Path, choices: list[dict], replies: list[dict], texts: list[dict], until: str
) -> None:
    """`tiny_group` of `tiny_first` and `tiny_second` (multiple choice), `tiny_reply`, `tiny_text`.

    The second has the first's rows but for its last.
    """
    write_task(folder, "tiny_first", "multiple_choice", CHOICE, choices)
    write_task(folder, "tiny_second", "multiple_choice", CHOICE, choices[:-1])
    write_task(folder, "tiny_reply", "generate_until", REPLY % until, replies)
    write_task(folder, "tiny_text", "loglikelihood_rolling", TEXT, texts)
    (folder / "tiny_group.yaml").write_text(GROUP)


def config_of(folder: Path | str, *tasks: str, **fields) -> HarnessConfig:
    """Every row, with the tasks' own shots, as plain text."""
    plain = {"shots": -1, "limit": 0, "chat": False}
    return HarnessConfig(tasks, str(folder), **plain | fields)
