"""Chat messages: parts, answers to go on from, and what a template does not understand."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from specdec.decoding.prompt import parse_prompts
from specdec.errors import InvalidArgument

pytestmark = pytest.mark.fast

CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")
IN_PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}|{% endfor %}{% endif %}</>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
).replace("}}|{%", "}}{% if not loop.last %}|{% endif %}{%")
STRICT = (
    "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{{ '<' + m['role'] + '>' + "
    "m['content'] }}{% endfor %}"
)
DEAF = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
)
TOOLS = CHATML + "{# wizard tool_calls name #}"


def tokenizer(template):
    """A token for each character that is printable ASCII."""
    vocab = {chr(i): i - 32 for i in range(32, 127)} | {"\n": 95}
    made = Tokenizer(WordLevel(vocab, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    found = PreTrainedTokenizerFast(tokenizer_object=made)
    found.chat_template = template
    return found


def shown(messages, template=CHATML):
    """The text that the model is given."""
    reader = tokenizer(template)
    ((ids,), is_list) = parse_prompts(messages, reader, 96)
    assert not is_list
    return reader.decode(ids)


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def text(*texts):
    return [{"type": "text", "text": each} for each in texts]


def test_a_conversation():
    messages = [say("system", "S"), say("user", "A"), say("assistant", "B"), say("user", "C")]
    want = "<system>S</><user>A</><assistant>B</><user>C</><assistant>"
    assert shown(messages) == shown(tuple(messages)) == want
    both = parse_prompts([messages, [say("user", "A")], "A", [33]], tokenizer(CHATML), 96)
    assert [len(ids) for ids in both[0]] == [len(want), 21, 1, 1]


@pytest.mark.parametrize("template", [CHATML, TRIMMED, IN_PARTS])
def test_text_in_parts(template):
    for content in (text("Hi"), ["Hi"], tuple(text("Hi"))):
        assert shown([say("user", content)], template) == "<user>Hi</><assistant>"
    two = "Hi|you" if template == IN_PARTS else "Hi\nyou"
    for content in (text("Hi", "you"), ["Hi", *text("you")]):
        assert shown([say("user", content)], template) == f"<user>{two}</><assistant>"


@pytest.mark.parametrize("template", [CHATML, TRIMMED, IN_PARTS])
@pytest.mark.parametrize("begun", ["", "So", "So it ", "</> twice </>"])
def test_an_answer_is_gone_on_from_as_transformers_does(template, begun):
    messages = [say("user", "A"), say("assistant", begun)]
    want = tokenizer(template).apply_chat_template(
        messages, tokenize=False, continue_final_message=True
    )
    assert shown(messages, template) == want
    assert want == f"<user>A</><assistant>{begun if template != TRIMMED else begun.strip()}"
    parts = [say("user", text("A")), say("assistant", text(begun))]
    assert shown(parts, template) == want


def test_the_callers_messages_stay_as_they_were():
    messages = [say("user", text("A", "B")), say("assistant", text("C", "D"))]
    copy = [say("user", text("A", "B")), say("assistant", text("C", "D"))]
    shown(messages, IN_PARTS)
    shown(messages, CHATML)
    assert messages == copy


def test_other_roles_and_keys_that_the_template_names():
    assert shown([say("wizard", "A")], TOOLS) == "<wizard>A</><assistant>"
    assert shown([say("user", "A", name="Bo", tool_calls=None)], TOOLS)
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    assert shown([say("user", "A"), called, say("tool", "3")], TOOLS).endswith("3</><assistant>")


BAD = [
    ([say("wizard", "A")], CHATML, "message 0 of prompt 0 has the role 'wizard'"),
    ([{"content": "A"}], CHATML, "has no role"), ([say(None, "A")], CHATML, "has no role"),
    ([say(3, "A")], CHATML, "has no role"),
    ([say("user", "A"), {"role": "user"}], CHATML, "message 1 of prompt 0 has no content"),
    ([say("user", None)], CHATML, "has no content"), ([say("user", 3)], CHATML, "is a int"),
    ([say("user", b"A")], CHATML, "bytes|type 'int'"), ([say("user", {"a": 1})], CHATML, "a dict"),
    ([say("user", [{"type": "image", "url": "x"}])], CHATML, "part 0 .* is of type 'image'"),
    ([say("user", [*text("A"), {"type": "image_url", "image_url": {}}])], CHATML, "'image_url'"),
    ([say("user", [{"type": "audio"}])], IN_PARTS, "'audio'"),
    ([say("user", [{"text": "A"}])], CHATML, "type None"), ([say("user", [3])], CHATML, "'int'"),
    ([say("user", [{"type": "text", "text": "A", "cache": 1}])], CHATML, "type 'text'"),
    ([say("user", "A", name="Bo")], CHATML, "'name', which the model's chat template does not"),
    ([say("user", "A"), "B"], CHATML, "message 1 of prompt 0 is a str"),
    ([say("system", "S"), say("user", "A")], STRICT, "only user and assistant"),
    ([say("system", "Say no more"), say("user", "A")], DEAF, "leaves out message 0"),
    ([say("user", "A")], "{{ 1 / 0 }}", "division by zero"),
    ([say("user", "A")], "{{ messages[0].content.nothing.more }}", "undefined|no attribute"),
    ([say("user", "A")], "{% for %}", "chat template does not take"),
    ([say("user", "A"), say("assistant", "B")], DEAF, "chat template does not take"),
    ([say("user", "A")], None, "no chat template"), ([say("user", "A")], "", "no chat template"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "template", "message"), BAD, ids=lambda x: str(x)[:40])
def test_what_is_not_understood(messages, template, message):
    with pytest.raises(InvalidArgument, match=message):
        shown(messages, template)


def test_templates_by_name_need_a_default():
    several = tokenizer(CHATML)
    several.chat_template = {"rag": CHATML, "tool": CHATML}
    with pytest.raises(InvalidArgument, match="chat template does not take"):
        parse_prompts([say("user", "A")], several, 96)
    several.chat_template = {"default": CHATML, "tool": CHATML}
    assert parse_prompts([say("user", "A")], several, 96)[0]


def test_a_lone_surrogate_in_a_message():
    with pytest.raises(InvalidArgument, match="lone surrogate"):
        shown([say("user", "a\udcff")])
