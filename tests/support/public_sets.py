"""Two rows of each public set by its published fields, with contents of our own, and what is read.

python -m tests.support.public_sets      prints the tables of docs/datasets.md
"""

from dataclasses import dataclass

Q, A, Q2, A2 = "Name a river.", "The Oder.", "2 + 2?", "It is 4."
BOTH = (("u:" + Q, "a:" + A), ("u:" + Q2, "a:" + A2))
SYSTEM = "Be brief."


@dataclass(frozen=True)
class PublicSet:
    """A set's rows and the conversations in them: s:, u:, a: of system, user, assistant.

    source: the field that labels rows. unread: names by commas. columns: what has to be named.
    """

    name: str
    rows: tuple[dict, dict]
    shape: str
    talks: tuple[tuple[str, ...], ...] = BOTH
    source: str = ""
    unread: str = ""
    note: str = ""
    columns: str = ""


def turns(
    *texts: str, role: str = "role", text: str = "content", names=("user", "assistant"), **more
):
    """Turns of user and assistant, the first of the system where there is an odd number."""
    odd = len(texts) % 2
    start = [{role: "system", text: texts[0], **more}] if odd else []
    rest = texts[odd:]
    return start + [{role: names[i % 2], text: part, **more} for i, part in enumerate(rest)]


def said(*texts: str, **more):
    return turns(*texts, role="from", text="value", names=("human", "gpt"), **more)


def pair(asked: str, replied: str, first=None, second=None, **more) -> tuple[dict, dict]:
    """Two rows of a prompt and its reply; `first` and `second` are of one row, `more` of both."""
    return (
        {asked: Q, replied: A, **more, **(first or {})},
        {asked: Q2, replied: A2, **more, **(second or first or {})},
    )


def lists(field: str, made=turns, first=None, second=None, **more) -> tuple[dict, dict]:
    return (
        {field: made(Q, A), **more, **(first or {})},
        {field: made(Q2, A2), **more, **(second or first or {})},
    )


WITH_SYSTEM = (BOTH[0], (f"s:{SYSTEM}", *BOTH[1]))
BOTH_SYSTEM = ((f"s:{SYSTEM}", *BOTH[0]), (f"s:{SYSTEM}", *BOTH[1]))
LONG = (*BOTH[0], *BOTH[1])
THOUGHT = "<think>\nHm.\n</think>\n\n"
THOUGHTS = (("u:" + Q, f"a:{THOUGHT}{A}"), ("u:" + Q2, f"a:{THOUGHT}{A2}"))
ALPACA = pair("instruction", "output", {"input": ""})
ALPACA_TALKS = (BOTH[0], ("u:Add.\n\n" + Q2, "a:" + A2))
ALPACA_ROWS = (ALPACA[0], {"instruction": "Add.", "input": Q2, "output": A2})
PROMPT_TEXT = "Below is a task.\n\n### Instruction:\n{}\n\n### Response:\n{}"


def node(role: str, text: str, *replies: dict, **more) -> dict:
    return {
        "message_id": text,
        "role": role,
        "text": text,
        "lang": "en",
        "deleted": False,
        "replies": list(replies),
        **more,
    }


def tree(asked: str, *replies: str) -> dict:
    found = [node("assistant", text, rank=rank) for rank, text in enumerate(replies)]
    return {
        "message_tree_id": asked,
        "tree_state": "ready_for_export",
        "prompt": node("prompter", asked, *reversed(found)),
    }


def hh(*texts: str) -> str:
    marks = ("\n\nHuman: ", "\n\nAssistant: ")
    return "".join(marks[i % 2] + text for i, text in enumerate(texts))


SETS = (
    # Turns.
    PublicSet("Infinity-Instruct", lists("conversations", said, {"id": 1, "langdetect": "en",
        "source": "flan", "label": {"ability_en": ["recall"], "cate_ability_zh": []}}),
        "conversations", source="source", unread="label,langdetect"),
    PublicSet("Tulu 2 mix; FLAN v2, CoT, Dolly and OASST1 as LESS has them",
        lists("messages", first={"dataset": "cot", "id": "cot_1"},
              second={"dataset": "flan_v2", "id": "flan_v2_1"}),
        "messages", source="dataset"),
    PublicSet("Tulu 3 mix", ({"id": "a", "messages": turns(Q, A), "source": "no_robots"},
        {"id": "b", "messages": turns(SYSTEM, Q2, A2), "source": "persona_math"}),
        "messages", WITH_SYSTEM, "source"),
    PublicSet("OpenHermes 2.5", ({"conversations": said(Q, A), "source": "airoboros2.2",
        "category": "trivia", "id": None, "title": None, "system_prompt": None, "model": None,
        "custom_instruction": None, "language": None, "hash": None, "idx": None, "views": None},
        {"conversations": said(SYSTEM, Q2, A2), "source": "glaive", "skip_prompt_formatting": False,
         "category": "code", "system_prompt": SYSTEM}),
        "conversations", WITH_SYSTEM, "source", "category,skip_prompt_formatting"),
    PublicSet("WizardLM evol-instruct V2", lists("conversations", said, {"idx": "a"}, {"idx": "b"}),
        "conversations"),
    PublicSet("UltraChat-200k", ({"prompt": Q, "prompt_id": "a", "messages": turns(Q, A)},
        {"prompt": Q, "prompt_id": "b", "messages": turns(Q, A, Q2, A2)}),
        "messages", (BOTH[0], LONG)),
    PublicSet("UltraChat", ({"id": "0", "data": [Q, A]}, {"id": "1", "data": [Q, A, Q2, A2]}),
        "data", (BOTH[0], LONG), note="texts are user and assistant in turn"),
    PublicSet("SlimOrca", tuple({"conversations": [
        {"from": "system", "value": SYSTEM, "weight": None},
        {"from": "human", "value": q, "weight": 0.0}, {"from": "gpt", "value": a, "weight": 1.0}]}
        for q, a in ((Q, A), (Q2, A2))), "conversations", BOTH_SYSTEM),
    PublicSet("LIMA", ({"conversations": [Q, A], "source": "wikihow"},
        {"conversations": [Q, A, Q2, A2], "source": "multi_turn"}), "conversations",
        (BOTH[0], LONG), "source", note="texts are user and assistant in turn; its test rows are "
        "questions alone, and bad rows"),
    PublicSet("No Robots", ({"prompt": Q, "prompt_id": "a", "messages": turns(Q, A),
        "category": "Chat"}, {"prompt": Q2, "prompt_id": "b", "messages": turns(SYSTEM, Q2, A2),
        "category": "Chat"}), "messages", WITH_SYSTEM, unread="category"),
    PublicSet("ShareGPT", ({"id": "a_0", "conversations": said(Q, A)},
        {"id": "a_1", "conversations": said(Q, A, Q2, A2)}), "conversations", (BOTH[0], LONG),
        note="conversations that an assistant opens are bad rows; where they are over 5 %, take "
        "them out"),
    PublicSet("Capybara, Pure-Dove", ({"source": "Airoboros",
        "conversation": [{"input": Q, "output": A}]}, {"source": "GPT4LLM", "conversation":
        [{"input": Q, "output": A}, {"input": Q2, "output": A2}]}), "conversation",
        (BOTH[0], LONG), "source"),
    PublicSet("SmolTalk", lists("messages", first={"source": "smol-magpie-ultra"}), "messages",
        source="source"),
    PublicSet("SmolTalk 2", lists("messages", first={"source": "multi_if", "chat_template_kwargs":
        {"custom_instructions": "", "enable_thinking": False, "python_tools": []}}), "messages",
        source="source", unread="chat_template_kwargs"),
    PublicSet("Magpie", lists("conversations", said, {"uuid": "a", "model": "llama", "instruction":
        Q, "response": A, "task_category": "Math", "difficulty": "easy", "instruct_reward": 0.5},
        {"uuid": "b", "model": "llama", "instruction": Q2, "response": A2}), "conversations",
        unread="difficulty,instruct_reward,model,task_category"),
    PublicSet("OpenThoughts, Bespoke-Stratos", tuple({"system": SYSTEM, "conversations": turns(
        q, a, role="from", text="value")} for q, a in ((Q, A), (Q2, A2))), "conversations",
        BOTH_SYSTEM, note="thoughts are part of the replies, as they stand"),
    PublicSet("OpenThoughts3", lists("conversations", said, {"difficulty": 7, "source": "aops",
        "domain": "math"}), "conversations", source="source", unread="difficulty,domain"),
    PublicSet("Mixture-of-Thoughts", lists("messages", first={"num_tokens": 9, "source": "or1"}),
        "messages", source="source", unread="num_tokens"),
    PublicSet("OpenR1-Math", lists("messages", first={"problem": Q, "solution": "By heart.",
        "answer": "Oder", "problem_type": "Other", "source": "olympiads", "uuid": "a",
        "generations": [A], "correctness_math_verify": [True]}, second={"problem": Q2,
        "solution": "Count.", "answer": "4", "source": "aops", "uuid": "b"}), "messages",
        source="source",
        unread="correctness_math_verify,generations,problem_type,solution"),
    PublicSet("NuminaMath-CoT, -TIR", lists("messages", first={"source": "cn_k12", "problem": Q,
        "solution": A}, second={"source": "orca_math", "problem": Q2, "solution": A2}),
        "messages", source="source"),
    PublicSet("Code-Feedback", lists("messages", first={"id": 1}, second={"id": 2}), "messages"),
    PublicSet("WildChat", lists("conversation", lambda *t: turns(*t, language="English",
        redacted=False, toxic=False, turn_identifier=7), {"conversation_hash": "a", "model":
        "gpt-4", "turn": 1, "language": "English", "toxic": False, "redacted": False, "state":
        None, "openai_moderation": [{"flagged": False}]}, {"conversation_hash": "b"}),
        "conversation", unread="conversation[].language,conversation[].redacted,"
        "conversation[].toxic,conversation[].turn_identifier,language,model,openai_moderation,"
        "redacted,toxic,turn"),
    PublicSet("LMSYS-Chat-1M", lists("conversation", first={"conversation_id": "a", "model":
        "vicuna-13b", "turn": 1, "language": "English", "redacted": False, "openai_moderation":
        [{"flagged": False}]}, second={"conversation_id": "b"}), "conversation",
        unread="language,model,openai_moderation,redacted,turn"),
    PublicSet("Dolphin-R1", tuple({"messages": turns(q, "")[:1], "reasoning": "Hm.", "answer": a,
        "model": "R1"} for q, a in ((Q, A), (Q2, A2))), "messages/answer", THOUGHTS,
        unread="model", columns="reply=answer,thought=reasoning"),
    PublicSet("ShareGPT-Chinese-English-90k", lists("conversation", lambda q, a: [{"human": q,
        "assistant": a}], {"conversation_id": "a", "category": "x"}, {"conversation_id": "b"}),
        "conversation", unread="category"),
    PublicSet("Hermes 3, Puffin", lists("conversations", said, {"id": "a"}, {"id": "b"}),
        "conversations"),
    PublicSet("Airoboros 3", tuple({"id": q, "category": "trivia", "conversations": said(SYSTEM, q,
        a)} for q, a in ((Q, A), (Q2, A2))), "conversations", BOTH_SYSTEM, unread="category"),
    # Prompt and reply.
    PublicSet("Alpaca, Alpaca-GPT4", tuple({**row, "text": PROMPT_TEXT.format(
        row["instruction"], row["output"])} for row in ALPACA_ROWS), "instruction/output",
        ALPACA_TALKS, unread="text", note="the input follows the instruction after an empty line"),
    PublicSet("Code-Alpaca, Evol-Instruct-Code, WizardLM evol-instruct V1, BELLE", ALPACA_ROWS,
        "instruction/output", ALPACA_TALKS),
    PublicSet("Code-Alpaca as prompts", pair("prompt", "completion"), "prompt/completion"),
    PublicSet("Python-code-instructions-18k", tuple({**row, "prompt": PROMPT_TEXT.format(
        row["instruction"], row["output"])} for row in ALPACA_ROWS), "instruction/output",
        ALPACA_TALKS, unread="prompt", note="its `prompt` holds the reply, and is not read"),
    PublicSet("LongAlpaca", pair("instruction", "output", {"input": "", "file": "a.txt"}),
        "instruction/output", unread="file"),
    PublicSet("Dolphin (FLAN)", tuple({"instruction": SYSTEM, "input": q, "output": a} for q, a in
        ((Q, A), (Q2, A2))), "instruction/output", tuple((f"u:{SYSTEM}\n\n{q}", f"a:{a}") for
        q, a in ((Q, A), (Q2, A2))), note="for its instruction as a system text give "
        "`data.columns=system=instruction,prompt=input`"),
    PublicSet("GPT4All", pair("prompt", "response", {"id": "a", "source": "laion"
        }), "prompt/response", source="source"),
    PublicSet("UltraInteract", pair("instruction", "response", {"task": "Coding", "dataset": "apps",
        "id": "a", "parent_id": "b"}), "instruction/response", source="dataset",
        unread="parent_id"),
    PublicSet("KTO mix", tuple({"prompt": turns(q, "")[:1], "completion": turns(q, a)[1:], "label":
        True} for q, a in ((Q, A), (Q2, A2))), "prompt/completion", unread="label",
        note="rows with `label` false are bad rows: take them out"),
    PublicSet("GPTeacher", ({"instruction": Q, "input": "", "response": A}, {"instruction": "Add.",
        "input": Q2, "response": A2}), "instruction/response", ALPACA_TALKS),
    PublicSet("Dolly", ({"instruction": Q, "context": "", "response": A, "category": "open_qa"},
        {"instruction": "Add.", "context": Q2, "response": A2, "category": "closed_qa"}),
        "instruction/response", ALPACA_TALKS, unread="category",
        note="the context follows the instruction after an empty line"),
    PublicSet("Open-Platypus", pair("instruction", "output", {"input": "", "data_source": "scib"}),
        "instruction/output", source="data_source"),
    PublicSet("MathInstruct", pair("instruction", "output", {"source": "data/CoT/aqua.json"}),
        "instruction/output", source="source"),
    PublicSet("MetaMathQA", pair("query", "response", {"type": "GSM_Rephrased",
        "original_question": "A river?"}), "query/response", unread="original_question,type"),
    PublicSet("CodeFeedback-Filtered-Instruction", pair("query", "answer", {"resource": "evol",
        "lang": "python"}), "query/answer", unread="lang,resource"),
    PublicSet("GSM8K", pair("question", "answer"), "question/answer",
        note="in a target's files the answer is what follows its last `####`"),
    PublicSet("Orca-Math, Glaive-code-assistant", pair("question", "answer"), "question/answer"),
    PublicSet("OpenOrca", tuple({"id": f"niv.{q}", "system_prompt": s, "question": q,
        "response": a} for s, q, a in (("", Q, A), (SYSTEM, Q2, A2))), "question/response",
        WITH_SYSTEM),
    PublicSet("FLAN (Open-Orca)", pair("inputs", "targets", {"_template_idx": 1, "_task_source":
        "Flan2021", "_task_name": "rte", "_template_type": "zs_opt"}), "inputs/targets",
        source="_task_source", unread="_task_name,_template_idx,_template_type"),
    PublicSet("FLAN (Muennighoff), xP3", pair("inputs", "targets", {"task": "rte"}),
        "inputs/targets"),
    PublicSet("Aya dataset", pair("inputs", "targets", {"language": "English", "language_code":
        "eng", "annotation_type": "original-annotations", "user_id": "x"}), "inputs/targets",
        unread="annotation_type,language,language_code,user_id"),
    PublicSet("Aya collection", pair("inputs", "targets", {"id": 1, "dataset_name": "Dolly-v2",
        "task_type": "qa", "template_id": 2, "split": "train"}), "inputs/targets",
        source="dataset_name", unread="split,task_type,template_id"),
    PublicSet("P3", tuple({"inputs": [3, 4], "inputs_pretokenized": q, "targets": [5, 1],
        "targets_pretokenized": a, "answer_choices": ["a", "b"]} for q, a in ((Q, A), (Q2, A2))),
        "inputs_pretokenized/targets_pretokenized", unread="answer_choices,inputs,targets",
        note="rows with `is_correct` false are bad rows; its tokens are not read"),
    PublicSet("Natural-Instructions (Muennighoff)", pair("inputs", "targets", {"task_name": "t1",
        "id": "t1-0", "definition": "Answer."}), "inputs/targets", (("u:Answer.\n\n" + Q, "a:" + A),
        ("u:Answer.\n\n" + Q2, "a:" + A2)), unread="task_name",
        note="the definition stands before the inputs"),
    PublicSet("Self-instruct", ({"id": "u1", "motivation_app": "Maps", "instruction": Q,
        "instances": [{"input": "", "output": A}]}, {"id": "u2", "motivation_app": "Sheets",
        "instruction": "Add.", "instances": [{"input": Q2, "output": A2}]}), "instruction/output",
        ALPACA_TALKS, unread="motivation_app",
        note="rows with several instances are bad rows: write each as a row"),
    PublicSet("Unnatural Instructions", tuple({"instruction": i, "instances": [{
        "instruction_with_input": f"{i}\n{q}", "input": q, "constraints": "None.", "output": a}]}
        for i, q, a in (("Answer.", Q, A), ("Add.", Q2, A2))), "instruction_with_input/output",
        (("u:Answer.\n" + Q, "a:" + A), ("u:Add.\n" + Q2, "a:" + A2)), unread="constraints",
        note="of the full set the reformulations are not read"),
    PublicSet("LongForm", pair("input", "output", {"source": "Wikipedia", "subset": "wiki"}),
        "input/output", source="source", unread="subset"),
    PublicSet("Firefly", pair("input", "target", {"kind": "NLI"}), "input/target", unread="kind"),
    PublicSet("LaMini", pair("instruction", "response", {"instruction_source": "alpaca"}),
        "instruction/response", source="instruction_source"),
    PublicSet("CoT-Collection", pair("source", "target", {"rationale": "Hm.", "task": "t",
        "type": "CoT"}), "source/target", unread="rationale,type",
        note="for thoughts give `data.columns=thought=rationale`"),
    PublicSet("NuminaMath-1.5", pair("problem", "solution", {"answer": "x", "problem_type":
        "Algebra", "question_type": "math-word-problem", "source": "olympiads"}),
        "problem/solution", source="source", unread="problem_type,question_type"),
    PublicSet("OpenMathInstruct-1", pair("question", "generated_solution", {"dataset": "gsm8k",
        "expected_answer": "4", "predicted_answer": "4", "is_correct": True, "error_message": ""}),
        "question/generated_solution", source="dataset",
        unread="expected_answer,is_correct,predicted_answer",
        note="rows with `is_correct` false are bad rows"),
    PublicSet("OpenMathInstruct-2", pair("problem", "generated_solution", {"expected_answer": "4",
        "problem_source": "augmented_math"}), "problem/generated_solution",
        source="problem_source", unread="expected_answer"),
    PublicSet("Magicoder OSS-Instruct", pair("problem", "solution", {"lang": "python", "index": 1,
        "seed": "x", "raw_index": 2}), "problem/solution", unread="index,lang,raw_index,seed"),
    PublicSet("Camel-AI math, physics, code", pair("message_1", "message_2", {"role_1": "M_USER",
        "topic;": "Algebra", "sub_topic": "x"}), "message_1/message_2",
        unread="role_1,sub_topic,topic;"),
    PublicSet("s1K", tuple({"question": q, "solution": "Short.", "attempt": a,
        "thinking_trajectories": ["Hm."], "cot_type": "math", "source_type": "aime", "metadata":
        "{}", "cot": None} for q, a in ((Q, A), (Q2, A2))), "question/attempt", THOUGHTS,
        unread="cot_type,metadata,solution,source_type",
        note="thoughts stand before the attempt"),
    PublicSet("s1K-1.1", tuple({"question": q, "solution": "Short.", "deepseek_attempt": a,
        "deepseek_thinking_trajectory": "Hm.", "gemini_attempt": "x", "cot_type": "math"}
        for q, a in ((Q, A), (Q2, A2))), "question/deepseek_attempt", THOUGHTS,
        unread="cot_type,gemini_attempt,solution",
        columns="reply=deepseek_attempt,thought=deepseek_thinking_trajectory"),
    PublicSet("Llama-Nemotron post-training", tuple({"input": turns(q, "")[:1], "output": a,
        "category": "math", "reasoning": "off", "generator": "x", "system_prompt": SYSTEM,
        "used_in_training": "yes"} for q, a in ((Q, A), (Q2, A2))), "input/output", BOTH_SYSTEM,
        unread="category,generator,reasoning,used_in_training"),
    PublicSet("OpenCodeReasoning", pair("input", "output", {"id": "a", "source": "codeforces",
        "license": "cc", "dataset": "taco", "split": "train", "difficulty": "1", "solution":
        "print()"}), "input/output", source="source",
        unread="dataset,difficulty,license,solution,split"),
    PublicSet("HelpSteer 2", pair("prompt", "response", {"helpfulness": 4, "verbosity": 1}),
        "prompt/response", unread="helpfulness,verbosity"),
    PublicSet("SQL-create-context", ({"question": Q, "context": "CREATE TABLE r", "answer": A},
        {"question": Q2, "context": "CREATE TABLE s", "answer": A2}), "question/answer",
        (("u:" + Q + "\n\nCREATE TABLE r", "a:" + A), ("u:" + Q2 + "\n\nCREATE TABLE s",
        "a:" + A2))),
    # Trees, transcripts, preferences.
    PublicSet("OASST1, OASST2 (file of trees)", (tree(Q, A, "The Po."), tree(Q2, A2)),
        "tree of replies", note="the best-ranked path; the file of single messages is refused"),
    PublicSet("OpenAssistant-Guanaco", tuple({"text": f"### Human: {q}### Assistant: {a}"}
        for q, a in ((Q, A), (Q2, A2))), "transcript in text"),
    PublicSet("Guanaco-Llama2-1k", tuple({"text": f"<s>[INST] {q} [/INST] {a} </s>"}
        for q, a in ((Q, A), (Q2, A2))), "transcript in text"),
    PublicSet("Baize", tuple({"input": "A human and an AI.\n" + "\n".join(f"[|Human|] {q}\n[|AI|] "
        f"{a}" for q, a in pairs) + "\n[|Human|] ", "topic": "x"} for pairs in (((Q, A),),
        ((Q, A), (Q2, A2)))), "transcript in input",
        (("s:A human and an AI.", *BOTH[0]), ("s:A human and an AI.", *LONG)), unread="topic",
        note="its first line is the system text"),
    PublicSet("OIG", tuple({"text": f"<human>: {q}\n<bot>: {a}", "metadata": "{}"} for q, a in
        ((Q, A), (Q2, A2))), "transcript in text", unread="metadata"),
    PublicSet("HH-RLHF", ({"chosen": hh(Q, A), "rejected": hh(Q, "No.")},
        {"chosen": hh(Q, A, Q2, A2), "rejected": hh(Q, A, Q2, "No.")}), "chosen", (BOTH[0], LONG),
        note="`chosen` is read, `rejected` is not"),
    PublicSet("HH-RLHF with prompts", ({"prompt": hh(Q, ""), "response": " " + A, "chosen": A,
        "rejected": "No."}, {"prompt": hh(Q, A, Q2, ""), "response": " " + A2, "chosen": A2,
        "rejected": "No."}), "prompt/response", (("u:" + Q, "a: " + A),
        (*BOTH[0], "u:" + Q2, "a: " + A2)), unread="chosen,rejected"),
    PublicSet("UltraFeedback binarized", tuple({"prompt": q, "prompt_id": q, "chosen": turns(q, a),
        "rejected": turns(q, "No."), "messages": turns(q, a), "score_chosen": 8.0,
        "score_rejected": 3.0} for q, a in ((Q, A), (Q2, A2))), "messages",
        unread="chosen,rejected,score_chosen,score_rejected",
        note="its `messages` are those of `chosen`"),
    PublicSet("UltraFeedback cleaned, Tulu 3 preferences", tuple({"source": "evol", "prompt": q,
        "chosen": turns(q, a), "rejected": turns(q, "No."), "chosen-rating": 5.0} for q, a in
        ((Q, A), (Q2, A2))), "prompt/chosen", source="source", unread="chosen-rating",
        note="`chosen` is read, `rejected` is not"),
    PublicSet("Skywork-Reward-Preference", tuple({"chosen": turns(q, a), "rejected":
        turns(q, "No."), "source": "offsetbias"} for q, a in ((Q, A), (Q2, A2))), "chosen",
        source="source", note="`chosen` is read, `rejected` is not"),
    PublicSet("Orca-DPO-pairs", tuple({"system": s, "question": q, "chosen": a, "rejected": "No."}
        for s, q, a in (("", Q, A), (SYSTEM, Q2, A2))), "question/chosen", WITH_SYSTEM,
        note="`chosen` is read, `rejected` is not"),
)  # fmt: skip
# Name -> a row, the beginning of its error, and the way out.
REFUSED = {
    "OASST1, OASST2 (file of messages)": ({"message_id": "a", "parent_id": None, "text": Q, "role":
        "prompter", "lang": "en", "message_tree_id": "a"}, "the row is one message",
        "take the file of trees (`*_ready.trees.jsonl.gz`)"),
    "Super-NaturalInstructions (task files)": ({"Contributors": ["x"], "Definition": ["Answer."],
        "Instances": [{"id": "1", "input": Q, "output": [A]}, {"id": "2", "input": Q2, "output":
        [A2]}]}, '"Instances" is a list; write each of them as a row',
        "write each instance as a row, with its `definition`"),
    "UltraFeedback (four completions)": ({"source": "evol", "instruction": Q, "models": ["a", "b"],
        "completions": [{"response": A, "overall_score": 8}]}, "format not recognised",
        "take the binarized or cleaned set"),
    "Nectar": ({"prompt": hh(Q, ""), "answers": [{"answer": A, "rank": 1.0}], "turns": 1},
        "format not recognised", "keep the best-ranked answer as `reply`"),
    "HC3": ({"id": "0", "question": Q, "human_answers": [A, A2], "chatgpt_answers": [A2]},
        "format not recognised", "keep one answer as `reply`"),
    "Chatbot-Arena conversations": ({"question_id": "a", "model_a": "x", "winner": "model_a",
        "conversation_a": turns(Q, A), "conversation_b": turns(Q, A2)}, "format not recognised",
        "`data.columns=messages=conversation_a`"),
    "OpenThoughts (metadata)": ({"problem": Q, "deepseek_reasoning": "Hm.", "deepseek_solution": A,
        "domain": "math"}, "format not recognised",
        "`data.columns=reply=deepseek_solution,thought=deepseek_reasoning`"),
    "Cosmopedia": ({"prompt": Q, "text": A, "seed_data": "x"}, 'no reply beside "prompt"',
        "`data.columns=reply=text`"),
    "Hermes-function-calling": ({"id": "a", "conversations": said(Q, A), "tools": "[{}]"},
        '"tools": calls of tools cannot be learned from', "leave such rows out"),
    "xLAM function calling": ({"query": Q, "answers": "[{}]", "tools": "[{}]"},
        '"tools": calls of tools cannot be learned from', "leave such rows out"),
    "LLaVA-Instruct": ({"id": "a", "image": "a.jpg", "conversations": said("<image>\n" + Q, A)},
        '"image": only text can be learned from', "leave such rows out"),
    "C4, The Pile, FineWeb": ({"text": "Once upon a time.", "url": "x"}, 'only "text"',
        "texts without a question are for pretraining"),
    "MT-bench questions": ({"question_id": 81, "category": "writing", "turns": [Q, Q2]},
        '"turns" holds texts without roles', "questions alone teach nothing"),
}  # fmt: skip


def tables() -> str:
    """The tables of docs/datasets.md, as Markdown."""
    lines = ["| set | read as | source label | notes |", "| --- | --- | --- | --- |"]
    for found in SETS:
        by_hand = f"`data.columns={found.columns}`" if found.columns else ""
        names = ", ".join(f"`{name}`" for name in found.unread.split(",") if name)
        notes = "; ".join(filter(None, (by_hand, found.note, names and f"not read: {names}")))
        label = f"`{found.source}`" if found.source else ""
        lines.append(f"| {found.name} | `{found.shape}` | {label} | {notes} |")
    lines += ["", "| refused | because | way out |", "| --- | --- | --- |"]
    for name, (_, error, way) in REFUSED.items():
        lines.append(f"| {name} | {error} | {way} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
