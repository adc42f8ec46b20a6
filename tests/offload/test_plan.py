"""Plans of well-known models, against arithmetic and what their authors publish."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from specdec.cache.kv_shape import KVShape
from specdec.cli.app import app
from specdec.cli.plan import lines
from specdec.errors import OutOfMemory
from specdec.offload.limits import WORK_BYTES
from specdec.offload.memory import parse_bytes, show_bytes
from specdec.offload.plan import best_draft, config_of, count_parameters, make_plan
from specdec.offload.rates import Rates

GIB = 1 << 30
RATES = Rates(1e12, 25e9, 5e9)

# published parameters; layers, key-value heads, head size
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": (8_030_261_248, 32, 8, 128),
    "meta-llama/Llama-3.1-70B-Instruct": (70_553_706_496, 80, 8, 128),
    "meta-llama/Llama-2-7b-hf": (6_738_415_616, 32, 32, 128),
    "mistralai/Mistral-7B-Instruct-v0.3": (7_248_023_552, 32, 8, 128),
    "Qwen/Qwen2.5-7B-Instruct": (7_615_616_512, 28, 4, 128),
    "Qwen/Qwen3-8B": (8_190_735_360, 36, 8, 128),
}


@pytest.mark.parametrize("name", MODELS)
def test_sizes(name):
    parameters, layers, kv_heads, dim = MODELS[name]
    config = config_of(name)
    assert count_parameters(config) == parameters
    shape = KVShape.of(config, torch.bfloat16)
    assert shape.token_bytes == 2 * layers * kv_heads * dim * 2


def plan(name, context, gpu, **changes):
    settings = {"host_memory": 64 * GIB, "disk": 0, "rates": RATES, **changes}
    return make_plan(name, context=context, device_memory=gpu * GIB, **settings)


@pytest.mark.parametrize("name", [name for name in MODELS if "70B" not in name])
@pytest.mark.parametrize(("context", "gpu"), [(4096, 24), (131072, 24), (131072, 80)])
def test_bytes_and_times_add_up(name, context, gpu):
    parameters, layers, kv_heads, dim = MODELS[name]
    context = min(context, config_of(name).max_position_embeddings)
    found = plan(name, context, gpu)
    layer = 2 * kv_heads * dim * 2 * context
    kv = layers * layer
    assert found.weights_device == 2 * parameters and found.weights_host == 0
    assert found.kv_bytes == kv
    far = found.kv.count("host")
    if 2 * parameters + kv + WORK_BYTES <= gpu * GIB:
        assert found.kv.tiers is None and not found.alternative
    else:
        assert far and found.kv.host_bytes == far * layer and found.kv.count("disk") == 0
        assert "4-bit weights" in found.alternative
    assert found.weights_device + found.kv.device_bytes + WORK_BYTES <= gpu * GIB
    near = (2 * parameters + kv - far * layer) / RATES.device
    assert found.plain_s == pytest.approx(near + far * layer / RATES.link)


def test_the_roofline_of_an_offloaded_8b():
    """8B in 16 bits, 128K, 24 GiB: plainly 2 tokens/s over PCIe, with long drafts over 10."""
    found = plan("meta-llama/Llama-3.1-8B-Instruct", 131072, 24)
    assert 1.5 < found.plain_tokens_per_s < 3 and found.draft_tokens > 8
    assert 9 < found.tokens_per_s < 20
    slow = plan("meta-llama/Llama-3.1-8B-Instruct", 131072, 24, rates=Rates(1e12, 12e9, 5e9))
    assert slow.draft_tokens > found.draft_tokens  # long drafts amortise a slow link
    assert slow.tokens_per_s / slow.plain_tokens_per_s > 5


def test_what_cannot_work_is_refused_with_the_smallest_change():
    with pytest.raises(OutOfMemory, match=r"52\.\d GiB more of either would do, or 4-bit weights"):
        plan("meta-llama/Llama-3.1-70B-Instruct", 131072, 24, host_memory=60 * GIB)
    name, settings = "meta-llama/Llama-3.1-8B", {"host_memory": 3 * GIB, "disk": 1 * GIB}
    with pytest.raises(
        OutOfMemory, match=r"Allow [\d.]+ GiB more.* ([\d,]+) tokens would fit"
    ) as e:
        plan(name, 131072, 24, **settings)
    fitting = int(str(e.value).split(": ")[-1].split(" tokens")[0].replace(",", ""))
    plan(name, fitting * 95 // 100, 24, **settings)
    with pytest.raises(OutOfMemory):
        plan(name, fitting * 110 // 100, 24, **settings)


def test_best_draft_is_the_best():
    for step, draft, a in ((1.0, 0.04, 0.9), (1.0, 0.3, 0.7), (1.0, 1.2, 0.9)):
        found, expected = best_draft(step, draft, a)
        speeds = [sum(a**i for i in range(n + 1)) / (n * draft + step) for n in range(65)]
        assert found == max(range(65), key=speeds.__getitem__)
        assert expected == pytest.approx(sum(a**i for i in range(found + 1)))


def test_sizes_as_people_write_them():
    assert parse_bytes("22GiB", "x") == 22 * GIB and parse_bytes("800 MB", "x") == 800_000_000
    assert parse_bytes("1.5g", "x") == 3 * GIB // 2 and parse_bytes(7, "x") == 7
    assert show_bytes(16 * GIB) == "16.0 GiB" and show_bytes(5) == "5 B"


def test_command():
    given = ["plan", "--model", "Qwen/Qwen3-8B", "--context", "32k", "--gpu-memory", "16GiB",
             "--cpu-memory", "60GiB", "--disk", "1GB", "--gpu-rate", "1000", "--link-rate", "25",
             "--disk-rate", "3"]  # fmt: skip
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0 and "8,190,735,360 parameters" in shown.stdout
    assert "or else: 4-bit weights" in shown.stdout and shown.stdout.count("(given)") == 3
    document = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert document["context"] == 32768 and document["weights_host"] > 0
    refused = CliRunner().invoke(app, ["plan", "--model", "Qwen/Qwen3-8B", "--gpu-memory", "1GiB"])
    assert refused.exit_code == 2 and "leave no room for weights" in refused.stderr
    unknown = CliRunner().invoke(app, [*given[:1], "--context", "long"])
    assert unknown.exit_code == 2 and "--context 'long'" in unknown.stderr


def test_a_length_that_the_model_does_not_have():
    """Nothing is planned that generate would refuse; without a length it is one that there is."""
    fast = ["--disk-rate", "3", "--cpu-memory", "60GiB", "--disk", "1GB"]
    for context in ("128k", "8193"):
        refused = CliRunner().invoke(app, ["plan", *fast, "--context", context])
        assert refused.exit_code == 2 and "8192 positions that demo has" in refused.stderr
        assert refused.stderr.startswith(f"error: --context {context.replace('128k', '131072')} is")
    fits = CliRunner().invoke(app, ["plan", *fast, "--context", "8k", "--json"])
    assert json.loads(fits.stdout)["context"] == 8192
    default = json.loads(CliRunner().invoke(app, ["plan", *fast, "--json"]).stdout)
    assert default["context"] == 8192 and default["parameters"] == 134_515_008
    assert plan("Qwen/Qwen3-8B", None, 24).context == 32768


def test_each_rate_says_where_it_comes_from():
    shown = CliRunner().invoke(
        app, ["plan", "-m", "Qwen/Qwen3-8B", "--gpu-memory", "24GiB", "--link-rate", "20",
              "--cpu-memory", "60GiB", "--disk", "1GB"],
    ).stdout  # fmt: skip
    kinds = {} if torch.cuda.is_available() else {"device": "assumed", "disk": "measured"}
    for name, kind in {**kinds, "link": "given"}.items():
        assert re.search(rf"{name} [\d.]+ GB/s \({kind}\)", shown)
    assert "at most no draft" not in shown


def test_where_no_draft_pays():
    found = make_plan("demo", context=100, device_memory=GIB, host_memory=0, disk=0, rates=RATES,
                      acceptance=0.0, on_cpu=True)  # fmt: skip
    assert found.draft_tokens == 0
    told = next(line for line in lines(found) if line.startswith("speculation"))
    assert told.endswith("acceptance of 0: no draft of the model itself would pay; n-grams or a "
                         "small draft model may")  # fmt: skip
