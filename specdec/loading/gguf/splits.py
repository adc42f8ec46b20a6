"""How byte-level tokenizers of GGUF files cut text into words, by the file's `tokenizer.ggml.pre`.

The names and rules are those of llama.cpp 0.3, since a file is written to be read by it; where its
expressions stand in for the original tokenizer's (letters of other scripts have no case there), so
do these. A name that is missing here is refused.
"""

from __future__ import annotations

from typing import NamedTuple


class Split(NamedTuple):
    """One way of cutting a text into the words that merges never cross.

    patterns: regular expressions that cut one after another: both what an expression matches and
        what lies between is a word, which the next one cuts further.
    ignore_merges: a word that is a token is that token, whatever the merges say.
    add_bos: texts begin with BOS unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_ENDING = "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_LOWER_ENDING = "'s|'t|'re|'ve|'m|'ll|'d"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_SPACES = r"\s+(?!\S)|\s+"
_LINES_AND_SPACES = rf"\s*[\r\n]+|{_SPACES}"

_GPT2 = rf"{_LOWER_ENDING}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)"
_DIGIT = r"\p{N}"
_THREE_DIGITS = r"\p{N}{1,3}"
# Digits in threes from the right; what stands before the first of them stays with it.
_THREES_FROM_RIGHT = r"[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_LLAMA3 = rf"{_ENDING}|{_LETTERS}|{_THREE_DIGITS}|{_SIGNS}|{_LINES_AND_SPACES}"
_QWEN2 = rf"{_ENDING}|{_LETTERS}|{_DIGIT}|{_SIGNS}|{_LINES_AND_SPACES}"
_QWEN35 = (
    rf"{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{_DIGIT}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES_AND_SPACES}"
)
_ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3_WORDS = rf"{_ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = (
    _THREE_DIGITS,
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"{_DEEPSEEK3_WORDS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES_AND_SPACES}",
)
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"  # outside ASCII a letter may be both
_PREFIX = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = (
    rf"{_PREFIX}{_UPPER}*{_LOWER}+|{_PREFIX}{_UPPER}+{_LOWER}*|{_DIGIT}"
    rf"|{_SIGNS_AND_SLASHES}|{_LINES_AND_SPACES}"
)
_GPT4O = (
    rf"{_PREFIX}{_UPPER}*{_LOWER}+(?:{_ENDING})?|{_PREFIX}{_UPPER}+{_LOWER}*(?:{_ENDING})?"
    rf"|{_THREE_DIGITS}|{_SIGNS_AND_SLASHES}|{_LINES_AND_SPACES}"
)
_CASELESS = rf"{_PREFIX}[\p{{L}}\p{{M}}]+(?:{_ENDING})?"
_HALVING = "|".join(rf"\s{{{1 << n}}}(?!\S)" for n in range(9, 1, -1))
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_CJK_AND_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# Letters that have case: Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee and their kin.
_CASED = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_AFMOE_SCRIPTS = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    "\u1100-\u11ff]+"
)

# What a file without the key gets, as in llama.cpp, which then warns of worse text.
DEFAULT = "default"

_RULES: dict[str, Split] = {
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2": Split(
        (_LLAMA3,), ignore_merges=True, add_bos=True
    ),
    "dbrx smaug-bpe chatglm-bpe": Split((_LLAMA3,)),
    "glm4 glm5": Split((_LLAMA3,), ignore_merges=True),
    "qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2 "
    "bailingmoe bailingmoe2 llada-moe": Split((_QWEN2,)),
    "qwen35": Split((_QWEN35,)),
    "gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling": Split(
        (_GPT2,)
    ),
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": Split((_DIGIT, _GPT2)),
    "falcon": Split((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "deepseek-llm": Split(
        (
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+\z",
            _CJK_AND_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_AND_HANGUL, _DIGIT)),
    "deepseek-v3 hunyuan-dense hy_v4 joyai-llm": Split(_DEEPSEEK3),
    "spark2_5": Split(
        (
            *_DEEPSEEK3[:2],
            rf"{_DEEPSEEK3_WORDS}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}",
            _DIGIT,
        )
    ),
    "tekken": Split((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": Split((_GPT4O,)),
    "tiny_aya cohere2moe": Split(
        (
            _THREES_FROM_RIGHT,
            rf"{_CASELESS}|{_THREE_DIGITS}|{_SIGNS_AND_SLASHES}|{_LINES_AND_SPACES}",
        )
    ),
    "youtu": Split(
        (
            "[\uac00-\ud7a3\u3131-\u318e]+"
            "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
            "\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            rf"{_CASELESS}|{_DIGIT}|{_SIGNS_AND_SLASHES}|{_LINES_AND_SPACES}",
        ),
        ignore_merges=True,
    ),
    "jais-2": Split(
        (
            rf"{_ENDING}|{_LETTERS}|{_THREE_DIGITS}|{_SIGNS}|\s*[\r\n]+|{_HALVING}"
            r"|\s{1,2}(?!\S)|\s",
        )
    ),
    "seed-coder": Split(
        (rf"{_ENDING}|{_LETTERS}|{_DIGIT}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES_AND_SPACES}",)
    ),
    "ufakzeka": Split((rf"{_LETTERS}|{_DIGIT}|{_SIGNS}|{_LINES_AND_SPACES}",)),
    "laguna": Split((r"[^\n]+|\n+", _QWEN2)),
    "afmoe": Split((_THREES_FROM_RIGHT, _AFMOE_SCRIPTS, _DEEPSEEK3[2])),
    "exaone-moe": Split(
        (
            rf"{_ENDING}|{_PREFIX}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{_DIGIT}"
            rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_SPACES}",
        )
    ),
    "minicpm5": Split(
        (
            _THREE_DIGITS,
            rf"{_ENDING}|{_LETTERS}|\p{{N}}+|{_SIGNS}|{_LINES_AND_SPACES}",
        ),
        ignore_merges=True,
    ),
    "poro-chat bloom gpt3-finnish": Split((_BLOOM,)),
    "viking": Split((_BLOOM, _DIGIT)),
    "superbpe": Split((r"\p{N}+", "(?=(?:[0-9]{3})+(?![0-9]))")),
}

SPLITS: dict[str, Split] = {
    name: split for names, split in _RULES.items() for name in names.split()
}
