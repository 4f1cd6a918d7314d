"""Chat templates end, in time and in memory; those that people write say what transformers makes of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from demo.tokenizer import CHAT_TEMPLATE as DEMO
from fastv_export.families.qwen_vl_chat.processor import CHAT_TEMPLATE as QWEN_VL_CHAT
from fastv_runtime import UserError
from fastv_runtime.generation.prompts.bounded_template import render
from tests.families.rows import internvl, qwen_patches, smolvlm
from tests.tiny import CHAT_TEMPLATE as TINY

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
QUESTION = {"type": "text", "text": "What is\n  the <colour>? \u00e9\u4e2d {{ }} %s"}
Chat = list[dict[str, Any]]
CHATS: dict[str, Chat] = {
    "one": [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, QUESTION]}],
    "text": [{"role": "user", "content": "What is it?"}],
    "many": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        *[{"role": role, "content": [QUESTION]} for role in ("user", "assistant", "user") * 20],
    ],
}
FEATURES = """
{%- set ns = namespace(last=-1, found=false) -%}
{%- macro part(value, deep=1) -%}
    {%- if value is string -%}{{ value | trim }}
    {%- elif value is mapping -%}{{ value.get('text', '') ~ '|' ~ value['type'] }}
    {%- else -%}{% for each in value recursive %}{{ part(each, deep=deep + 1) }}{{ ',' if not loop.last }}{% endfor %}
    {%- endif -%}
{%- endmacro -%}
{% for message in messages[::-1] %}
    {%- if message.role == 'user' and not ns.found %}{% set ns.last = messages | length - loop.index0 %}
    {%- set ns.found = true %}{% endif %}
{% endfor %}
{%- for message in messages if message['role'] != 'system' %}
{{ bos_token + message['role'].upper() }}: {{ part(message['content']) }}
    {%- if loop.index > 3 %}{% continue %}{% endif %}
    {%- generation %}{{ message | tojson }}{{ message.content | tojson(indent=2) }}{% endgeneration %}
    {%- filter upper %}{{ message['content'] | string | replace('type', 'TYPE') | indent(2) }}{% endfilter %}
    {%- set block %}{{ loop.cycle('a', 'b') }}{{ loop.length }}{{ loop.revindex }}{{ loop.previtem is defined }}
    {%- endset %}
    {{- block }}{{ "%-5s%03d" | format('x', 7) }}{{ '{:>5}|{a}'.format('x', a=1) }}{{ ('%.2f' % 1.5) * 2 }}
{%- endfor %}
{{ [3, 1, 2] | sort | join('-') }}{{ range(3) | map('string') | list }}{{ 7 // 2 ** 2 }}{{ {'a': 1}.items() | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'a,b'.split(',') }}{{ 'x'.center(5) | e }}
{{ dict(a=1) }}{{ ns.last }}{{ undefined_one | default('none') }}{{ messages[0].content is iterable }}
{{ tools is none }}{{ '<a href="x">' | e }}{{ 'abc'[1:] in ['bc'] }}{{ strftime_now('%Y') | length }}
{{ joiner(',')() }}{{ 'x' ~ none ~ 1.5 }}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}
"""
TEMPLATES = {
    "tiny": TINY,
    "demo": DEMO,
    "qwen-vl-chat": QWEN_VL_CHAT,
    "internvl": internvl.CHAT_TEMPLATE,
    "qwen": qwen_patches.TEMPLATE,
    "smolvlm": smolvlm.CHAT_TEMPLATE,
    "features": FEATURES,
    "joins": "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}",
    "refuses": "{{ raise_exception('no images here') }}",
}


def outcome(write: Callable[[], str]) -> str:
    """What a template writes, or that it fails; in its own words where it has some."""
    try:
        return write()
    except jinja2.TemplateError as error:
        return "failed" if "Error" in str(error) else f"failed: {error}"
    except (TypeError, ValueError, KeyError):
        return "failed"


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_says_what_transformers_makes_of_it(template: str, chat: Chat) -> None:
    def theirs() -> str:
        written: str = render_jinja_template([chat], chat_template=template, add_generation_prompt=True, **SPECIAL)[0][
            0
        ]
        return written

    expected = outcome(theirs)
    assert outcome(lambda: render(template, chat, SPECIAL)) == expected
    assert expected


BIG = "{% set s = 'x' * 100000 %}"
NESTED = "{% set a = [1] * 1000 %}{% set b = [a] * 1000 %}{% set c = [b] * 1000 %}"
DOUBLED = "{% set ns = namespace(s='x', l=[]) %}{% for i in range(60) %}LINE{% endfor %}{{ ns.s }}{{ ns.l }}"
END = "{% endfor %}"
RUNAWAYS = {
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}" + END * 2,
    "nested lists": "{% set l = range(9999) | list %}" + "{% for i in l %}" * 4 + END * 4,
    "recursive loop": "{% for i in range(1000) recursive %}{{ loop(range(1000)) }}" + END,
    "range": "{{ range(10 ** 9) | list }}",
    "large range": "{% for i in range(10 ** 30) %}" + END,
    "power": "{{ 9 ** (9 ** 8) }}",
    "product": "{% set n = namespace(x=10 ** 9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}" + END,
    "text times": "{{ 'x' * 10 ** 9 }}",
    "times text": "{{ 10 ** 9 * 'x' }}",
    "list times": "{{ [1] * 10 ** 9 }}",
    "printed": NESTED + "{{ c }}",
    "compared": NESTED + "{% set d = [b] * 1000 %}{{ c == d }}{{ c is eq d }}{{ c in [d] }}",
    "to JSON": NESTED + "{{ c | tojson }}",
    "widely to JSON": "{{ ([1] * 10000) | tojson(indent=10 ** 6) }}",
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}",
    "% width": "{{ '%1000000000d' % 1 }}",
    "% width given": "{{ '%*d' % (10 ** 9, 1) }}",
    "% often": BIG + "{{ ('%s' * 100000) % ([s] * 100000) }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "format width given": "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format often": BIG + "{{ ('{0}' * 100000).format(s) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "center": "{{ 'x'.center(10 ** 9) }}",
    "center filter": "{{ 'x' | center(10 ** 9) }}",
    "ljust": "{{ 'x'.ljust(10 ** 9) }}",
    "zfill": "{{ 'x'.zfill(10 ** 9) }}",
    "indent": r"{{ ('\n' * 1000) | indent(10 ** 7) }}",
    "batch": "{{ [1] | batch(10 ** 9, 0) | list }}",
    "slice": "{{ [1] | slice(10 ** 9) | list }}",
    "replace": BIG + "{{ s.replace('x', s) }}",
    "replace filter": BIG + "{{ s | replace('', s) }}",
    "join": BIG + "{{ s.join(s) }}",
    "join filter": BIG + "{{ s | join(s) }}",
    "expandtabs": r"{{ ('\t' * 100000).expandtabs(100000) }}",
    "translate": BIG + "{{ s.translate({120: s}) }}",
    "to_bytes": "{{ (5).to_bytes(10 ** 9, 'big') }}",
    "doubled by ~": DOUBLED.replace("LINE", "{% set ns.s = ns.s ~ ns.s %}"),
    "doubled by +": DOUBLED.replace("LINE", "{% set ns.s = ns.s + ns.s %}"),
    "doubled by blocks": DOUBLED.replace("LINE", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
    "doubled lists": DOUBLED.replace("LINE", "{% set ns.l = [ns.l, ns.l] %}"),
    "output": "{% for i in range(500000) %}xxxxxxxxxx" + END,
    "filters": "{% for i in range(100000) %}{% set x = range(100000) | map('string') | list %}" + END,
    "date": "{{ strftime_now('%1000000000d') }}",
    "parentheses": "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
    "blocks": "{% for a in [1] %}" * 60 + END * 60,
    "long": "x" * 300_000,
    "inside": "{{ ''.__class__.__mro__ }}",
    "inside by format": "{{ '{0.__class__.__mro__}'.format(1) }}",
}


@pytest.mark.parametrize("template", RUNAWAYS.values(), ids=RUNAWAYS)
def test_a_template_without_bounds_is_one_line_soon_and_in_little_memory(template: str) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((UserError, jinja2.TemplateError)) as caught:
        render(template, CHATS["one"], SPECIAL)
    assert time.process_time() - began < 5  # a second or so, on a machine that is no slower than most
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10  # in KiB
    assert "\n" not in str(caught.value)


def test_what_the_user_writes_may_be_long() -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "What is the colour? " * 100_000}]}]
    written = render_jinja_template([chat], chat_template=TINY, add_generation_prompt=True, **SPECIAL)[0][0]
    assert render(TINY, chat, SPECIAL) == written
