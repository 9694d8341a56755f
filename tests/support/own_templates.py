"""Small chat templates that behave as those of published tokenizers do."""

START = "{{ bos_token }}{% for m in messages %}"
# A reply's thought apart from its text, as Qwen3's template takes them apart.
SPLIT = (
    "{% set thought, text = '', m.content %}{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
)
# An empty think block before the last reply; thoughts of earlier ones are left out (Qwen3).
THINKING = (
    "{% set ns = namespace(asked=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}" + SPLIT + "{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.asked %}"
    "{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ text + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# No thoughts at all, and a prompt that ends in an opened think tag (distilled from R1).
OPENED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% else %}{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
# The same with thoughts as they stand in the row.
OPENED_KEPT = OPENED.replace(".split('</think>')[-1]", "")
# Marks around the header, an empty think block and the last line break (SmolLM3).
MARKED_WIDELY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endgeneration %}{% else %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TURNS = (
    "{{ '<|' + m.role + '|>\\n' + m.content | trim + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PLAIN = START + TURNS
# A system message is refused (Gemma 2).
NO_SYSTEM = (
    START + "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS
)
# A system message is passed over (Mistral 0.3, which writes it for a last question alone).
SYSTEM_PASSED_OVER = "{{ bos_token }}{% for m in messages if m.role != 'system' %}" + TURNS
DATED = (
    "{% if strftime_now is defined %}{% set today = strftime_now('%d %B %Y') %}"
    "{% else %}{% set today = '26 July 2024' %}{% endif %}"
    "{{ 'Today is ' + today + '.\\n' }}" + PLAIN.removeprefix("{{ bos_token }}")
)
DATE_STRING = "{{ 'Today is ' + date_string + '.\\n' }}" + PLAIN.removeprefix("{{ bos_token }}")
DATE_OF_ITS_OWN = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
) + DATE_STRING
MARKS = ("<|im_start|>", "<|im_end|>")
