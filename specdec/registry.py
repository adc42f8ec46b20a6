"""The tables of what can be named: an extension is one new file and one line here.

Rooms above the core are named as dotted strings and imported when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from specdec.errors import InvalidArgument, unknown_name

# Fields of DraftOptions that a kind of drafter or view has a use for; giving others is an error.
_TREE = frozenset({"num_draft_tokens", "draft_width"})
_NGRAM = _TREE | {"min_ngram", "max_ngram"}
_GROWN = frozenset({"draft_tree", "draft_nodes"})
_MODEL = _TREE | _GROWN | {"draft_model", "min_draft_prob"}
_VIEW = frozenset({"budget", "sink", "recent", "refresh", "anchors", "dense"})
_SELF_DRAFT = _TREE | _GROWN | {"min_draft_prob", "draft_layers", "draft_weights"}


@dataclass(frozen=True)
class Entry:
    """Where something lives (`module:attribute`) and what it is, in one line.

    options: fields of DraftOptions that it has a use for. needs_model: a drafter that cannot do
    without draft_model. own_format: its draft_model is no causal LM, and it loads that by itself.
    needs_documents: it can do nothing without saved_documents.
    argument: given to what is loaded before all others, if not empty.
    """

    path: str
    summary: str
    options: frozenset[str] = frozenset()
    needs_model: bool = False
    own_format: bool = False
    needs_documents: bool = False
    argument: str = ""

    @property
    def takes_model(self) -> bool:
        """Whether it is a drafter that can make use of draft_model."""
        return "draft_model" in self.options

    def load(self) -> Any:
        module, attribute = self.path.split(":")
        loaded = getattr(import_module(module), attribute)
        return partial(loaded, self.argument) if self.argument else loaded


def _method(path: str, summary: str, *options: str) -> Entry:
    """A view that is a file of `sparse/methods`, with options of its own."""
    place = "specdec.sparse.methods.by_options:view"
    return Entry(place, summary, _VIEW.union(options), argument=path)


def _codec(path: str, summary: str, *options: str) -> Entry:
    """A view of `sparse/methods` that reads a copy of everything, by its options alone."""
    place = "specdec.sparse.methods.by_options:view"
    return Entry(place, summary, frozenset(options), argument=path)


VIEWS = {
    "full": Entry(
        "specdec.forward.full_view:full", "every key of the context: the target's own law"
    ),
    "streaming": Entry(
        "specdec.sparse.presets:streaming",
        "sinks and a window of recent tokens (StreamingLLM)",
        _VIEW,
    ),
    "triforce-chunks": Entry(
        "specdec.sparse.presets:triforce_chunks",
        "chunks of 8 by their mean key (TriForce)",
        _VIEW,
    ),
    "quest": Entry(
        "specdec.sparse.presets:quest",
        "pages of 16 by a bound on their logits (Quest)",
        _VIEW,
    ),
    "double-sparsity": Entry(
        "specdec.sparse.presets:double_sparsity",
        "tokens by a few label channels (Double Sparsity)",
        _VIEW | {"channels", "label_bits"},
    ),
    "tidal": Entry(
        "specdec.sparse.presets:tidal",
        "exact top tokens of a few anchor layers, shared by the others (TidalDecode)",
        _VIEW,
    ),
    "snapkv": Entry(
        "specdec.sparse.presets:snapkv",
        "tokens that the prompt's last queries vote for, once (SnapKV)",
        _VIEW,
    ),
    "ada-snapkv": Entry(
        "specdec.sparse.presets:ada_snapkv",
        "as snapkv, with a budget for each KV head by what it looks at (AdaKV)",
        _VIEW,
    ),
    "snapkv-merged": Entry(
        "specdec.sparse.presets:snapkv_merged",
        "as snapkv, where means of neighbours stand for what is left out",
        _VIEW,
    ),
    "verified": Entry(
        "specdec.sparse.presets:verified",
        "pages by their mass in the last verification, which reads everything anyway",
        _VIEW,
    ),
    "oracle": Entry(
        "specdec.sparse.presets:oracle",
        "exact top tokens of every layer: to measure the others against",
        _VIEW,
    ),
    "mpcache": _method(
        "mpcache:MPCache",
        "groups of what was looked at, by a linear bound (MPCache)",
        "looked_share",
    ),
    "compresskv": _method(
        "compresskv:CompressKV",
        "tokens that a few retrieval heads look at, layers by their error (CompressKV)",
        "calibration",
    ),
    "defensive": _method(
        "defensive:Defensive",
        "tokens by their worst case over the prompt's last queries (DefensiveKV)",
        "by_output",
    ),
    "layer-defensive": _method(
        "defensive:LayerDefensive",
        "as defensive, with one budget for the heads of all layers (Layer-DefensiveKV)",
        "by_output",
    ),
    "prefixkv": _method(
        "prefixkv:PrefixKV",
        "tokens by all attention, the same share of it in every layer (PrefixKV)",
    ),
    "windowkv": _method(
        "windowkv:WindowKV",
        "windows of 8 tokens, chosen once for 8 layers (WindowKV)",
        "window_task",
    ),
    "uncomp": _method(
        "uncomp:UNComp",
        "as snapkv, less for heads and layers whose queries are alike (UNComp)",
        "calibration",
    ),
    "kvcrush": _method(
        "kvcrush:KVCrush",
        "as snapkv, and samples of what it leaves out (KVCrush)",
        "crush_share",
        "crush_anchor",
    ),
    "ems": _method(
        "ems:EMS",
        "tokens by global or local attention, the redundant ones merged (EMS)",
        "redundancy",
    ),
    "razor": _method(
        "razor:Razor",
        "everything for retrieval heads, a window and a mean for others (RazorAttention)",
        "calibration",
        "induction_heads",
        "echo_heads",
    ),
    "duo": _method(
        "duo:Duo",
        "everything for half of the heads, sinks and a window for others (DuoAttention)",
        "calibration",
        "streaming_heads",
    ),
    "epicache": _method(
        "epicache:EpiCache",
        "tokens that the topic of a question looks at (EpiCache)",
        "calibration",
        "episodes",
        "episode_tokens",
    ),
    "locret": _method(
        "locret:Locret",
        "tokens by what small trained heads foretell of each (Locret)",
        "calibration",
    ),
    "h2o": _method("h2o:H2O", "the tokens that all queries have looked at most (H2O)"),
    "scissorhands": _method(
        "scissorhands:Scissorhands",
        "the tokens that late queries ignored least often (Scissorhands)",
    ),
    "keyformer": _method(
        "keyformer:Keyformer",
        "tokens by attention gathered under noise and a rising temperature (Keyformer)",
    ),
    "lazy-eviction": _method(
        "lazy_eviction:LazyEviction",
        "the tokens that are not overdue against their own gaps (LazyEviction)",
    ),
    "critic": _method(
        "critic:CRITIC",
        "tokens by attention and its entropy (CRITIC)",
        "attention_weight",
    ),
    "d2o": _method(
        "d2o:D2O",
        "as h2o, more for spread layers, what is dropped merged into its like (D2O)",
    ),
    "kivi": Entry(
        "specdec.sparse.codecs.kivi_view:kivi",
        "every key and value in 2, 4 or 8 bits, but for the newest (KIVI)",
        frozenset({"kv_bits", "kv_group", "recent"}),
    ),
    "gear": _codec(
        "gear:Gear",
        "every key and value in few bits, with outliers and errors apart (GEAR)",
        "kv_bits",
        "kv_group",
        "rank",
        "outliers",
        "recent",
    ),
    "rotatekv": _codec(
        "rotatekv:RotateKV",
        "every key and value in few bits, spread by a Hadamard transform (RotateKV)",
        "kv_bits",
        "sink",
        "recent",
    ),
    "cskv": _codec(
        "cskv:CSKV",
        "every key and value in a share of the directions, measured once (CSKV)",
        "key_share",
        "value_share",
        "latent_bits",
        "recent",
        "calibration",
    ),
    "xkv": _codec(
        "xkv:XKV",
        "the prompt in directions that neighbouring layers share (xKV)",
        "key_share",
        "value_share",
        "group_layers",
        "recent",
    ),
    "x-ecomla": _codec(
        "x_ecomla:XEcoMLA",
        "keys and values as one latent, without training (X-EcoMLA's start)",
        "latent_share",
        "recent",
    ),
    "minicache": _codec(
        "minicache:MiniCache",
        "two deep layers as one direction and two lengths (MiniCache)",
        "interpolation",
        "retained",
        "latent_bits",
        "recent",
    ),
    "mikv": _method(
        "mikv:MiKV",
        "every token, those that matter as they are, others in few bits (MiKV)",
        "kv_bits",
        "exact_share",
    ),
    "zipcache": _codec(
        "zipcache:ZipCache",
        "every token, salient ones in more bits (ZipCache)",
        "kv_bits",
        "salient_bits",
        "salient_share",
        "recent",
    ),
    "kvmerger": _method(
        "kvmerger:KVMerger",
        "the most attended tokens, and the others in runs that are merged (KVMerger)",
        "merge_cosine",
        "merged_share",
    ),
    "lizard": _codec(
        "lizard:Lizard",
        "sinks, a window, and one state for all between (experimental, after Lizard)",
        "features",
        "sink",
        "recent",
    ),
    "cacheblend": Entry(
        "specdec.sparse.blend.view:cacheblend",
        "saved documents, read apart, with a share of tokens read again (CacheBlend)",
        frozenset({"recomputed_share"}),
        needs_documents=True,
    ),
}
SPARSE_VIEWS = [name for name, entry in VIEWS.items() if "budget" in entry.options]

DRAFTERS = {
    "auto": Entry(
        "specdec.drafts.auto.drafter:AutoDrafter",
        "whoever brings the most tokens per second at the moment, or nobody: chosen in each round",
        _NGRAM | {"draft_model", "min_draft_prob"},
    ),
    "none": Entry("specdec.drafts.none:NoDrafter", "plain decoding, one token a pass"),
    "ngram": Entry(
        "specdec.drafts.ngram.drafter:NGramDrafter",
        "continuations of earlier occurrences of the last tokens, from a suffix automaton",
        _NGRAM,
    ),
    "model": Entry(
        "specdec.drafts.model:ModelDrafter",
        "a smaller causal LM with the same token ids (draft_model=), as a chain or a tree",
        _MODEL,
        needs_model=True,
    ),
    "longspec": Entry(
        "specdec.drafts.longspec.drafter:LongSpec",
        "a trained block that reads the target's own KV, in constant memory (LongSpec)",
        _MODEL,
        own_format=True,
    ),
    "block": Entry(
        "specdec.drafts.block.drafter:BlockDrafter",
        "a Block Transformer (draft_model=) that shares the target's tokens: blocks of four",
        frozenset({"num_draft_tokens", "draft_model"}),
        needs_model=True,
        own_format=True,
    ),
    "cascade": Entry(
        "specdec.drafts.cascade:cascade",
        "the draft model, itself sped up by n-gram drafts: three levels",
        _NGRAM | {"draft_model"},
        needs_model=True,
    ),
    "triforce": Entry(
        "specdec.drafts.triforce:triforce",
        "three levels: n-gram or draft_model, the target on retrieved chunks, the full target",
        _NGRAM | _MODEL | _VIEW | {"draft_weights"},
    ),
    # every view but the full one drafts, too
    **{
        name: Entry(
            "specdec.drafts.self_draft:SelfDraft",
            f"the target itself, on {view.summary}",
            _SELF_DRAFT | view.options,
            argument=name,
        )
        for name, view in VIEWS.items()
        if name != "full"
    },
    "cacheblend": Entry(
        "specdec.drafts.cacheblend:CacheBlendDrafter",
        f"the target itself, on {VIEWS['cacheblend'].summary}",
        _TREE | _GROWN | {"min_draft_prob", "draft_weights", "recomputed_share"},
        needs_documents=True,
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

BENCH = {
    "run": Entry("specdec.bench.runner:run", "measures"),
    "plan": Entry("specdec.bench.runner:Plan", "what to measure, and how often"),
    "workloads": Entry("specdec.bench.suites:workloads_of", "the workloads of a suite"),
    "table": Entry("specdec.bench.report.tables:table", "a measurement as rows of a table"),
    "acceptance": Entry(
        "specdec.bench.report.tables:acceptance_table", "acceptance as rows of a table"
    ),
    "caption": Entry("specdec.bench.report.tables:caption", "what was measured where"),
    "notes": Entry("specdec.bench.report.tables:notes", "how to read a measurement"),
    "check_free": Entry(
        "specdec.bench.report.files:check_free", "whether a folder may be written to"
    ),
    "write": Entry("specdec.bench.report.files:write", "a measurement as files"),
    "read": Entry("specdec.bench.report.files:read", "a measurement from its file"),
    "compare": Entry("specdec.bench.report.compare:compare", "two measurements, cell by cell"),
    "differences": Entry(
        "specdec.bench.report.compare:differences", "why a comparison may be unfair"
    ),
    "offload": Entry("specdec.bench.offload:profile_offload", "decoding with KV behind a link"),
    "neighbours": Entry("specdec.bench.neighbours:profile_neighbours", "decoding beside others"),
    "random_engine": Entry("specdec.bench.offload:random_engine", "a shape without its weights"),
    "steppers": Entry("specdec.bench.roster:steppers", "peers whose passes are timed"),
    "steps": Entry("specdec.bench.step_profile:profile_steps", "where a pass's time goes"),
    "kernels": Entry("specdec.bench.kernels.profile:profile_kernels", "checks and times every op"),
    "profile": Entry("specdec.bench.views.profile:profile", "compares sparse views on a text"),
    "anchors": Entry(
        "specdec.bench.views.anchors:find_anchors", "calibrates the anchors of a view"
    ),
    "plot": Entry("specdec.bench.views.plots:plot_profile", "a profile as a picture"),
    "facts": Entry("specdec.machine:facts", "what ran where"),
    "manual": Entry("specdec.bench.workloads:manual", "a long text that is always there"),
}

TRAINING = {
    "train": Entry("specdec.drafts.longspec.training.run:train", "distils a target into a drafter"),
    "measure": Entry("specdec.drafts.longspec.training.measure:measure", "what a drafter foresees"),
}


CHANNELS = Entry(
    "specdec.sparse.scorers.channel_calibration:channel_order",
    "what the option channels stands for",
)
CALIBRATION = {
    "text": Entry("specdec.sparse.calibrations.finding:sample", "tokens to measure a model on"),
    "measured": Entry("specdec.sparse.calibrations.finding:measured", "measures heads and layers"),
}
CALIBRATE = Entry(
    "specdec.sparse.scorers.channel_calibration:calibrate", "measures label channels on a text"
)


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
