"""The tables of what can be named: an extension is one new file and one line here.

Rooms above the core are named as dotted strings and imported when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from specdec.errors import InvalidArgument, unknown_name
from specdec.method import Method, Option


@dataclass(frozen=True)
class Entry:
    """Where something lives (`module:attribute`) and what it is, in one line."""

    path: str
    summary: str

    def load(self) -> Any:
        module, attribute = self.path.split(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class Named(Entry):
    """A method that users name: its `path` is a `Method`.

    on: of a drafter that runs the target itself, the view that it reads.
    """

    on: str = ""

    @property
    def options(self) -> dict[str, Option]:
        """What it can be told, by name."""
        kind: type[Method] = self.load()
        return {**kind.options(), **(VIEWS[self.on].options if self.on else {})}

    @property
    def needs_documents(self) -> bool:
        """Whether it can do nothing without the saved documents of a call."""
        kind: type[Method] = self.load()
        return kind.needs_documents

    def method(self, given: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """The method with those of the options `given` that it has a use for.

        Raises InvalidArgument for values that it cannot take.
        """
        kind: type[Method] = self.load()
        if self.on:
            return kind.given(given, on=VIEWS[self.on].method(given))
        return kind.given(given)


VIEWS = {
    "full": Named(
        "specdec.forward.full_method:Full", "every key of the context: the target's own law"
    ),
    "streaming": Named(
        "specdec.sparse.methods.streaming:Streaming",
        "sinks and a window of recent tokens (StreamingLLM)",
    ),
    "triforce-chunks": Named(
        "specdec.sparse.methods.triforce_chunks:TriForceChunks",
        "chunks of 8 by their mean key (TriForce)",
    ),
    "quest": Named(
        "specdec.sparse.methods.quest:Quest", "pages of 16 by a bound on their logits (Quest)"
    ),
    "double-sparsity": Named(
        "specdec.sparse.methods.double_sparsity:DoubleSparsity",
        "tokens by a few label channels (Double Sparsity)",
    ),
    "tidal": Named(
        "specdec.sparse.methods.tidal:Tidal",
        "exact top tokens of a few anchor layers, shared by the others (TidalDecode)",
    ),
    "snapkv": Named(
        "specdec.sparse.methods.snapkv:SnapKV",
        "tokens that the prompt's last queries vote for, once (SnapKV)",
    ),
    "ada-snapkv": Named(
        "specdec.sparse.methods.ada_snapkv:AdaSnapKV",
        "as snapkv, with a budget for each KV head by what it looks at (AdaKV)",
    ),
    "snapkv-merged": Named(
        "specdec.sparse.methods.snapkv_merged:SnapKVMerged",
        "as snapkv, where means of neighbours stand for what is left out",
    ),
    "verified": Named(
        "specdec.sparse.methods.verified:Verified",
        "pages by their mass in the last verification, which reads everything anyway",
    ),
    "oracle": Named(
        "specdec.sparse.methods.oracle:Oracle",
        "exact top tokens of every layer: to measure the others against",
    ),
    "mpcache": Named(
        "specdec.sparse.methods.mpcache:MPCache",
        "groups of what was looked at, by a linear bound (MPCache)",
    ),
    "shadowkv": Named(
        "specdec.sparse.methods.shadowkv:ShadowKV",
        "chunks of 8 by their mean key, with keys of few directions (ShadowKV)",
    ),
    "sparf": Named(
        "specdec.sparse.methods.sparf:SparF",
        "tokens by the query's strongest channels, the mean value for the rest (InstInfer)",
    ),
    "actqkv": Named(
        "specdec.sparse.methods.actqkv:ActQKV",
        "blocks of 32 by a probe query, layers by the density of their scores (ActQKV)",
    ),
    "compresskv": Named(
        "specdec.sparse.methods.compresskv:CompressKV",
        "tokens that a few retrieval heads look at, layers by their error (CompressKV)",
    ),
    "defensive": Named(
        "specdec.sparse.methods.defensive:Defensive",
        "tokens by their worst case over the prompt's last queries (DefensiveKV)",
    ),
    "layer-defensive": Named(
        "specdec.sparse.methods.defensive:LayerDefensive",
        "as defensive, with one budget for the heads of all layers (Layer-DefensiveKV)",
    ),
    "prefixkv": Named(
        "specdec.sparse.methods.prefixkv:PrefixKV",
        "tokens by all attention, the same share of it in every layer (PrefixKV)",
    ),
    "visual-prune": Named(
        "specdec.sparse.methods.visual_prune:VisualPrune",
        "text, image tokens that the question looks at, others evenly (SpecVLM for video)",
    ),
    "look-m": Named(
        "specdec.sparse.methods.look_m:LookM",
        "text before images; what is dropped is merged into what is like it (LOOK-M)",
    ),
    "elastic": Named(
        "specdec.sparse.methods.elastic:Elastic",
        "the most attended tokens, with their neighbours merged into them (Elastic Cache)",
    ),
    "livevlm": Named(
        "specdec.sparse.methods.livevlm:LiveVLM",
        "text, and pages of image tokens from all over that the question asks for (LiveVLM)",
    ),
    "rekv": Named(
        "specdec.sparse.methods.rekv:ReKV",
        "text, and the images or frames whose keys the question asks for (ReKV)",
    ),
    "windowkv": Named(
        "specdec.sparse.methods.windowkv:WindowKV",
        "windows of 8 tokens, chosen once for 8 layers (WindowKV)",
    ),
    "uncomp": Named(
        "specdec.sparse.methods.uncomp:UNComp",
        "as snapkv, less for heads and layers whose queries are alike (UNComp)",
    ),
    "kvcrush": Named(
        "specdec.sparse.methods.kvcrush:KVCrush",
        "as snapkv, and samples of what it leaves out (KVCrush)",
    ),
    "ems": Named(
        "specdec.sparse.methods.ems:EMS",
        "tokens by global or local attention, the redundant ones merged (EMS)",
    ),
    "razor": Named(
        "specdec.sparse.methods.razor:Razor",
        "everything for retrieval heads, a window and a mean for others (RazorAttention)",
    ),
    "duo": Named(
        "specdec.sparse.methods.duo:Duo",
        "everything for half of the heads, sinks and a window for others (DuoAttention)",
    ),
    "epicache": Named(
        "specdec.sparse.methods.epicache:EpiCache",
        "tokens that the topic of a question looks at (EpiCache)",
    ),
    "locret": Named(
        "specdec.sparse.methods.locret:Locret",
        "tokens by what small trained heads foretell of each (Locret)",
    ),
    "kivi": Named(
        "specdec.sparse.methods.kivi:Kivi",
        "every key and value in 2, 4 or 8 bits, but for the newest (KIVI)",
    ),
    "gear": Named(
        "specdec.sparse.methods.gear:Gear",
        "every key and value in few bits, with outliers and errors apart (GEAR)",
    ),
    "rotatekv": Named(
        "specdec.sparse.methods.rotatekv:RotateKV",
        "every key and value in few bits, spread by a Hadamard transform (RotateKV)",
    ),
    "cskv": Named(
        "specdec.sparse.methods.cskv:CSKV",
        "every key and value in a share of the directions, measured once (CSKV)",
    ),
    "xkv": Named(
        "specdec.sparse.methods.xkv:XKV",
        "the prompt in directions that neighbouring layers share (xKV)",
    ),
    "x-ecomla": Named(
        "specdec.sparse.methods.x_ecomla:XEcoMLA",
        "keys and values as one latent, without training (X-EcoMLA's start)",
    ),
    "minicache": Named(
        "specdec.sparse.methods.minicache:MiniCache",
        "two deep layers as one direction and two lengths (MiniCache)",
    ),
    "mikv": Named(
        "specdec.sparse.methods.mikv:MiKV",
        "every token, those that matter as they are, others in few bits (MiKV)",
    ),
    "zipcache": Named(
        "specdec.sparse.methods.zipcache:ZipCache",
        "every token, salient ones in more bits (ZipCache)",
    ),
    "zipvl": Named(
        "specdec.sparse.methods.zipvl:ZipVL",
        "every token; as many in more bits as cover a layer's attention (ZipVL)",
    ),
    "vidkv": Named(
        "specdec.sparse.methods.vidkv:VidKV",
        "every token, in one to two bits (VidKV)",
    ),
    "kvmerger": Named(
        "specdec.sparse.methods.kvmerger:KVMerger",
        "the most attended tokens, and the others in runs that are merged (KVMerger)",
    ),
    "lizard": Named(
        "specdec.sparse.methods.lizard:Lizard",
        "sinks, a window, and one state for all between (experimental, after Lizard)",
    ),
    "h2o": Named(
        "specdec.sparse.methods.h2o:H2O",
        "the tokens that all queries have looked at most (H2O)",
    ),
    "scissorhands": Named(
        "specdec.sparse.methods.scissorhands:Scissorhands",
        "the tokens that late queries ignored least often (Scissorhands)",
    ),
    "keyformer": Named(
        "specdec.sparse.methods.keyformer:Keyformer",
        "tokens by attention gathered under noise and a rising temperature (Keyformer)",
    ),
    "lazy-eviction": Named(
        "specdec.sparse.methods.lazy_eviction:LazyEviction",
        "the tokens that are not overdue against their own gaps (LazyEviction)",
    ),
    "critic": Named(
        "specdec.sparse.methods.critic:CRITIC", "tokens by attention and its entropy (CRITIC)"
    ),
    "d2o": Named(
        "specdec.sparse.methods.d2o:D2O",
        "as h2o, more for spread layers, what is dropped merged into its like (D2O)",
    ),
    "sentencekv": Named(
        "specdec.sparse.methods.sentencekv:SentenceKV",
        "whole sentences, by what the running one asks for (SentenceKV)",
    ),
    "louiskv": Named(
        "specdec.sparse.methods.louiskv:LouisKV",
        "clusters of the prompt and segments of what is written, when the query turns (LouisKV)",
    ),
    "retrieval": Named(
        "specdec.sparse.methods.retrieval:Retrieval",
        "the best clusters of keys, the next best estimated (RetrievalAttention, RetroInfer)",
    ),
    "leoam": Named(
        "specdec.sparse.methods.leoam:LeoAM",
        "chunks as large as attention is flat, by bounds on their logits (LeoAM)",
    ),
    "cacheblend": Named(
        "specdec.sparse.methods.cacheblend:CacheBlend",
        "saved documents, read apart, with a share of tokens read again (CacheBlend)",
    ),
}

DRAFTERS = {
    "auto": Named(
        "specdec.drafts.methods.auto:AutoOptions",
        "whoever brings the most tokens per second at the moment, or nobody: chosen in each round",
    ),
    "none": Named("specdec.drafts.methods.none:NoDraft", "plain decoding, one token a pass"),
    "ngram": Named(
        "specdec.drafts.methods.ngram:NGramOptions",
        "continuations of earlier occurrences of the last tokens, from a suffix automaton",
    ),
    "model": Named(
        "specdec.drafts.methods.model:ModelOptions",
        "a smaller causal LM with the same token ids (draft_model=), as a chain or a tree",
    ),
    "longspec": Named(
        "specdec.drafts.methods.longspec:LongSpecOptions",
        "a trained block that reads the target's own KV, in constant memory (LongSpec)",
    ),
    "specvlm": Named(
        "specdec.drafts.methods.specvlm:SpecVlmOptions",
        "LongSpec's block, which reads each image as a few entries (SpecVLM)",
    ),
    "block": Named(
        "specdec.drafts.methods.block:BlockOptions",
        "a Block Transformer (draft_model=) that shares the target's tokens: blocks of four",
    ),
    "cascade": Named(
        "specdec.drafts.methods.cascade:Cascade",
        "the draft model, itself sped up by n-gram drafts: three levels",
    ),
    "triforce": Named(
        "specdec.drafts.methods.triforce:TriForce",
        "three levels: n-gram or draft_model, the target on retrieved chunks, the full target",
    ),
    # every view but the full one drafts, too
    **{
        name: Named(
            "specdec.drafts.methods.self_draft:SelfDraftOptions",
            f"the target itself, on {view.summary}",
            on=name,
        )
        for name, view in VIEWS.items()
        if name != "full"
    },
    "cacheblend": Named(
        "specdec.drafts.methods.cacheblend:CacheBlendOptions",
        f"the target itself, on {VIEWS['cacheblend'].summary}",
        on="cacheblend",
    ),
}

COMBINED = Entry("specdec.drafts.combined:Combined", "several drafters, named as in a+b")

ACCEPTANCE = {
    "coupled": Entry(
        "specdec.sampling.verify:walk",
        "same seed, same text, whichever drafter runs: target and drafter share their noise",
    ),
    "rejection": Entry(
        "specdec.sampling.verify:traversal",
        "most tokens per pass when sampling: block and traversal verification",
    ),
}


@cache
def holders() -> Mapping[str, Mapping[str, Option]]:
    """For each option, the drafters and views that have it, with what it is to them."""
    found: dict[str, dict[str, Option]] = {}
    for table in (DRAFTERS, VIEWS):
        for name, entry in table.items():
            for option in entry.options.values():
                found.setdefault(option.name, {})[name] = option
    return found


def read_option(name: str, text: str) -> Any:
    """The value behind a text, for the first method that can take it. Raises InvalidArgument."""
    *others, last = (option.kind for option in holders()[name].values())
    for kind in others:
        value = kind.parse(text)
        try:
            kind.check(name, value)
        except InvalidArgument:
            continue
        return value
    value = last.parse(text)
    last.check(name, value)
    return value


def kv_methods() -> dict[str, Named]:
    """The KV methods by name: those that name a paper. Most are views, too."""
    both = {**VIEWS, **{name: x for name, x in DRAFTERS.items() if name not in VIEWS}}
    return {name: entry for name, entry in both.items() if entry.load().paper}


def page_views() -> list[str]:
    """The views that read a number of tokens which can be chosen: those with a `budget`."""
    return [name for name, view in VIEWS.items() if "budget" in view.options]


def drafter_names(spec: str) -> list[str]:
    """The drafters of a name such as "ngram" or the combination "ngram+model", all known."""
    names = [name.strip() for name in spec.split("+")]
    for name in names:
        if name not in DRAFTERS:
            raise unknown_name("drafter", name, DRAFTERS)
    if len(names) > 1 and ({"none", "auto"} & set(names) or len(set(names)) < len(names)):
        raise InvalidArgument(
            f"drafter {spec!r} combines a drafter with itself, or with 'none' or 'auto'"
        )
    return names
