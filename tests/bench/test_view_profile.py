"""The profile of views: what must hold of its numbers whatever the model, and its command."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from typer.testing import CliRunner

from specdec.bench.views.anchors import best_anchors, find_anchors, mean_recall, recall_matrix
from specdec.bench.views.attention_mass import attention_mass
from specdec.bench.views.profile import profile
from specdec.cli.app import app
from specdec.errors import InvalidArgument
from specdec.forward.attention_call import AttentionCall
from specdec.model.target import Target

from helpers import models

RNG = random.Random(1)
TEXT = [RNG.randrange(models.VOCAB) for _ in range(120)]
SMALL = {"sink": 2, "recent": 2, "depth": 3, "rounds": 6}


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3", "gpt-oss"])
def target(request):
    return Target(models.build(request.param))


def test_what_reads_all_is_the_full_view(target):
    """A budget beyond the text: the same laws, all of the mass, and no more bytes."""
    views = ["streaming", "quest", "tidal", "verified", "oracle"]
    document = profile(target, TEXT, views, [128], **SMALL)
    assert document["num_prompt_tokens"] == 120 - 6 * 4
    for row in document["views"]:
        assert row["overlap"] == pytest.approx([1.0] * 3) and row["agreement"] == [1.0] * 3
        assert row["recall"] == pytest.approx([1.0] * target.num_layers)
        assert row["keys_share"] == row["bytes_share"] == 1.0


def test_the_oracle_holds_most(target):
    """No view of the same budget keeps more mass per layer; its laws are nearest on the whole."""
    views = ["oracle", "streaming", "triforce-chunks", "verified", "double-sparsity"]
    document = profile(target, TEXT, views, [24], dense=(), **SMALL)
    oracle, *others, labels = document["views"]
    assert min(oracle["recall"]) > 0 and oracle["keys_share"] < 1.0
    for row in others:
        assert row["keys_share"] <= oracle["keys_share"] + 1e-9  # whole pages may fill less
        assert sum(row["recall"]) < sum(oracle["recall"]), row["view"]
        assert sum(row["overlap"]) < sum(oracle["overlap"]), row["view"]
    # 16 labels are all 8 channels; only how the heads of a group vote is another
    assert labels["recall"] == pytest.approx(oracle["recall"], rel=0.03)
    assert sum(labels["recall"]) < sum(oracle["recall"])
    # It reads all keys to find the best: those come on top of the keys and values it attends to.
    assert oracle["bytes_share"] > oracle["keys_share"]
    streaming = next(row for row in others if row["view"] == "streaming")
    assert streaming["bytes_share"] == pytest.approx(streaming["keys_share"])


def test_heads_that_read_different_numbers_and_entries_are_counted():
    """Means over heads of what each reads; entries are keys that are read, and hold no mass."""
    target = Target(models.build("llama"))
    views = ["snapkv", "ada-snapkv", "duo", "snapkv-merged", "ems"]
    document = profile(target, TEXT, views, [40], **SMALL)
    snap, ada, duo, merged, ems = document["views"]
    assert ada["keys_share"] == pytest.approx(snap["keys_share"], abs=0.02)
    assert duo["keys_share"] > 0.5  # half of the heads read all of it
    assert merged["keys_share"] > snap["keys_share"]
    # what came since a choice makes no entry go, as it does pages
    assert snap["keys_share"] < ems["keys_share"] < snap["keys_share"] + 0.12
    assert max(ems["recall"]) < min(merged["recall"])
    assert all(0 < x["overlap"][0] <= 1 for x in document["views"])


def test_more_budget_keeps_more():
    target = Target(models.build("llama"))
    rows = profile(target, TEXT, ["oracle", "quest"], [32, 64], dense=(), **SMALL)["views"]
    for small, large in (rows[:2], rows[2:]):
        assert small["budget"] < large["budget"]
        assert all(a < b for a, b in zip(small["recall"], large["recall"], strict=True))
        assert small["bytes_per_token"] < large["bytes_per_token"]


def test_mass_is_the_attention():
    """Against softmax over one concatenated, masked row of keys."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8)
    keys = torch.randn(2, 5, 8)
    mass = attention_mass(AttentionCall(0, q, k, v, scale=0.4, softcap=2.0), keys)
    assert mass.shape == (2, 2, 3, 8)
    for head, node in itertools.product(range(4), range(3)):
        seen = torch.cat([keys[head // 2], k[0, head // 2, : node + 1]])
        want = (2.0 * (seen @ q[0, head, node] * 0.4 / 2.0).tanh()).softmax(0)
        torch.testing.assert_close(mass[head // 2, head % 2, node, : 6 + node], want)
        assert not mass[head // 2, head % 2, node, 6 + node :].any()


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_anchors_are_the_best_of_all(count):
    """Dynamic programming against every set of anchors, on random matrices."""
    for seed in range(20):
        recall = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed)).double()

        sets = [(0, *rest) for rest in itertools.combinations(range(1, 6), count - 1)]
        found = best_anchors(recall, count)
        assert len(found) == count and found == sorted(set(found))
        best = max(mean_recall(recall, anchors) for anchors in sets)
        assert mean_recall(recall, found) == pytest.approx(best)


def test_a_layer_knows_its_own_tokens_best():
    """The diagonal is exact top-k of each layer, which no other layer's choice can beat."""
    masses = [torch.randn(2, 1, 3, 20).mul(3).softmax(-1) for _ in range(4)]
    matrix = recall_matrix(masses, 18, 5)
    assert (matrix <= matrix.diag()[None] + 1e-6).all()
    assert (recall_matrix(masses, 18, 18) - 1.0).abs().max() < 1e-6


def test_find_anchors():
    target = Target(models.build("gemma3"))  # its only layer with full attention is the last
    found = find_anchors(target, TEXT, 1, budget=16, depth=2, rounds=3)
    assert found["anchors"] == found["default_anchors"] == [5] == found["layers"]
    assert found["mean_recall"] == found["default_mean_recall"] == 1.0
    with pytest.raises(InvalidArgument, match="1 layers that can be anchors"):
        find_anchors(target, TEXT, 2)


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    from tokenizers import Regex, Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from specdec import Engine

    from helpers.letters import LETTERS

    tokenizer = Tokenizer(WordLevel({x: i for i, x in enumerate(LETTERS)}, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    model = models.build("llama", vocab_size=len(LETTERS))
    return Engine(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer))


@pytest.fixture
def run(engine, monkeypatch, tmp_path):
    from specdec.cli import console

    monkeypatch.setattr(console, "load_engine", lambda *arguments, **memory: engine)
    (tmp_path / "text").write_text("No more, no less. " * 9)

    def invoke(*arguments):
        start = ["profile", "-f", str(tmp_path / "text"), "--positions", "4", "--depth", "3"]
        return CliRunner().invoke(app, [*start, *arguments])

    return invoke


def test_the_command_writes_a_report(run, tmp_path):
    chosen = ("-d", "streaming,oracle", "--budgets", "90,100", "--out", str(tmp_path / "out"))
    result = run(*chosen, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "profile.json").read_text())
    assert [(row["view"], row["budget"]) for row in printed["views"]] == [
        ("streaming", 90), ("streaming", 100), ("oracle", 90), ("oracle", 100),
    ]  # fmt: skip
    assert (tmp_path / "out" / "profile.png").read_bytes().startswith(b"\x89PNG")
    table = run(*chosen)
    assert "streaming" in table.stdout and "recall" in table.stdout


def test_the_command_calibrates_channels(run, tmp_path):
    """It writes a file that `--channels` takes, here and in `specdec generate`."""
    file = tmp_path / "channels.json"
    result = run("--calibrate-channels", str(file))
    assert result.exit_code == 0 and "--drafter double-sparsity --channels" in result.stdout
    rows = [
        json.loads(run("-d", "double-sparsity", "--budgets", "90", "--json", *more).stdout)
        for more in ((), ("--channels", str(file)), ("--sink", "1", "--recent", "1"))
    ]
    assert all(row["views"][0]["view"] == "double-sparsity" for row in rows)
    assert rows[0]["views"] != rows[2]["views"]
    generate = ["-v", "generate", "-f", str(tmp_path / "text"), "-n", "9", "-d", "double-sparsity"]
    for more, said in [
        (["--budget", "96", "--channels", str(file)], "double-sparsity read 96 of"),
        (["--budget", "96", "--anchors", "0", "--refresh", "2"], "double-sparsity read 96 of"),
        ([], "double-sparsity read everything: the context is within its budget"),
    ]:
        out = CliRunner().invoke(app, [*generate, *more])
        assert out.exit_code == 0, out.output
        assert said in " ".join(out.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-d", "tidal", "--anchors", "one"), "--anchors 'one': give layer numbers"),
        (("-d", "tidal", "--anchors", "7"), "anchors name layer 7"),
        (("-d", "double-sparsity", "--channels", "none"), "--channels 'none' cannot be read"),
        (("-d", "quests"), "did you mean 'quest'"),
        (("-d", "full"), "unknown view 'full'"),
        (("--budgets", "150"), "give a longer text, smaller --budgets"),
        (("--budgets", "many"), "give numbers of tokens"),
        (("-d", "oracle", "--budgets", "20"), "give at least 81"),
        (("--find-anchors", "3", "--budgets", "64"), "0 layers that can be anchors"),
    ],
)
def test_mistakes_are_explained(run, arguments, message):
    result = run(*(arguments if "--budgets" in arguments else (*arguments, "--budgets", "90")))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
