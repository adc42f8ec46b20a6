"""`specdec profile`: which sparse view, budget and anchors for a model and a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import arguments, console, options, prompts
from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.progress import progress_bar
from specdec.registry import page_views

if TYPE_CHECKING:
    from specdec.engine import Engine


@options.MethodOptions(without=["budget"], views_only=True)
def view_profile(
    call: typer.Context,
    model: arguments.Model = "demo",
    views: Annotated[
        str | None,
        typer.Option(
            "--views", "-d", help="Sparse views, separated by commas. Default: all with a budget."
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", "-f", help="Text to measure on. Default: the Python manual."),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Tokens that a layer reads of the context, separated by commas.")
    ] = "128,256,512",
    depth: Annotated[int, typer.Option(min=1, max=255, help="Draft positions.")] = 8,
    positions: Annotated[int, typer.Option(min=1, help="Drafts along the end of the text.")] = 32,
    context: Annotated[
        int, typer.Option(min=64, help="Take only the first tokens of the text.")
    ] = 4096,
    find_anchors: Annotated[
        int | None,
        typer.Option(
            "--find-anchors", metavar="N", help="Find the best N anchors for 'tidal' instead."
        ),
    ] = None,
    calibrate_channels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure the label channels of 'double-sparsity' on the text and write FILE.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for profile.json and profile.png.")
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Compare sparse views with the full one on a text.

    Agreement, recall, and bytes read.

    The model reads the text once; then each view drafts along its last part, fed the text's own
    tokens, and is asked how far its predictions are those of the full view. The sum of min(p, q) is
    the share of drafts that sampling at temperature 1 would accept.

    \b
    Examples:
      specdec profile --prompt-file LICENSE --out profile
      specdec profile --views quest,verified --budgets 256,512 --positions 16
      specdec profile --find-anchors 3 --budgets 512
      specdec profile --views tidal --anchors 2,10,20
      specdec profile --calibrate-channels channels.json --prompt-file corpus.txt
      specdec profile --views double-sparsity --channels channels.json
    """
    from specdec.bench.views import anchors, plots, profile

    names, sizes = (views.split(",") if views else page_views()), _sizes(budgets)
    text = None if prompt_file is None else prompts.read_prompt(None, prompt_file)
    engine = console.load_engine(model, dtype, device, trust_remote_code, activations=activations)
    if calibrate_channels is not None:
        _calibrate(engine, text, str(prompt_file or "the Python manual"), calibrate_channels)
        return
    tokens = _tokens(engine, text, context, positions * (depth + 1), sizes)
    with progress_bar("Measuring") as progress:
        if find_anchors is not None:
            document = anchors.find_anchors(
                engine.target, tokens, find_anchors, max(sizes), depth, positions, progress
            )
        else:
            document = profile.profile(
                engine.target,
                tokens,
                names,
                sizes,
                depth,
                positions,
                progress,
                engine.tokenizer,
                **options.given(call),
            )
    document = {"model": engine.name, "text": str(prompt_file or "Python manual"), **document}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = "profile" if find_anchors is None else "anchors"
        write_text(out / f"{name}.json", json.dumps(document, indent=1) + "\n")
        if find_anchors is None:
            plots.plot_profile(document, out / "profile.png")
    if as_json:
        console.print_json(document)
    elif find_anchors is None:
        _print(document)
    else:
        _print_anchors(document)


def _calibrate(engine: Engine, text: str | None, name: str, file: Path) -> None:
    """Measure label channels on a text and write them to a file."""
    tokens = _read(engine, text)
    from specdec.sparse.scorers.channel_calibration import calibrate

    calibrate(engine.target, tokens, name).save(file)
    console.out().print(
        f"Wrote {file}: the label channels of {engine.name}, measured on {name}. Use it as\n"
        f"specdec generate --drafter double-sparsity --channels {file}",
        markup=False,
    )


def _read(engine: Engine, text: str | None) -> list[int]:
    """The token ids of a text, by default the Python manual."""
    from specdec.bench.workloads import manual

    if engine.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and a text needs one")
    return list(engine.tokenizer(manual() if text is None else text)["input_ids"])


def _sizes(budgets: str) -> list[int]:
    try:
        sizes = [int(budget) for budget in budgets.split(",") if budget]
    except ValueError:
        sizes = []
    if not sizes:
        raise InvalidArgument(f"--budgets {budgets!r}: give numbers of tokens, as in 128,256")
    return sizes


def _tokens(
    engine: Engine, text: str | None, context: int, walk: int, sizes: list[int]
) -> list[int]:
    """The text's first tokens, as many as fit; raises if budgets leave nothing out of them."""
    limit = min(context, engine.target.max_positions)
    tokens = _read(engine, text)[:limit]
    need = max(sizes) + walk + 1
    if len(tokens) <= need:
        raise InvalidArgument(
            f"the text has {len(tokens)} tokens (--context and the model allow {limit}), and "
            f"drafting along its last {walk} of them with a budget of {max(sizes)} needs more than "
            f"{need}: give a longer text, smaller --budgets, or fewer --positions"
        )
    return tokens


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    depth, out = document["depth"], console.out()
    table = Table(box=None, header_style="bold")
    table.add_column("view")
    for column in ("budget", "agreement", "overlap 1", f"overlap 1-{depth}", "recall", "bytes"):
        table.add_column(column, justify="right")
    for row in document["views"]:
        shares = (
            _mean(row["agreement"]),
            row["overlap"][0],
            _mean(row["overlap"]),
            _mean(row["recall"]),
        )
        cells = [*(f"{share:.3f}" for share in shares), f"{row['bytes_share']:.1%}"]
        table.add_row(row["view"], str(row["budget"]), *cells)
    out.print(table)
    out.print(
        f"{document['model']}, {document['num_prompt_tokens']} tokens of context and "
        f"{document['rounds']} drafts. agreement: same best token as the full view; overlap: sum "
        "of min(p, q); recall: attention mass on what is read; bytes: of keys, values and index.",
        style="dim",
        markup=False,
    )


def _print_anchors(document: dict[str, Any]) -> None:
    chosen, default = tuple(document["anchors"]), tuple(document["default_anchors"])
    text = (
        f"anchors={chosen} keep {document['mean_recall']:.1%} of the attention of all layers at a "
        f"budget of {document['budget']}"
    )
    if document["default_mean_recall"] is not None:
        text += f"; the default {default} keeps {document['default_mean_recall']:.1%}"
    text += f".\nUse them as `specdec generate --drafter tidal --anchors {_list(chosen)}`, or as"
    text += f' engine.generate(..., drafter="tidal", anchors={chosen}).'
    console.out().print(text, markup=False)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _list(layers: tuple[int, ...]) -> str:
    return ",".join(map(str, layers))
