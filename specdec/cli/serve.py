"""`specdec serve`: the engine behind OpenAI's HTTP interface."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from specdec.cli import arguments, console, options
from specdec.errors import InvalidArgument


@options.MethodOptions()
def serve(
    call: typer.Context,
    model: arguments.Model = "demo",
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    slots: Annotated[int, typer.Option(min=1, help="Texts that are decoded at a time.")] = 4,
    slot_tokens: Annotated[
        int, typer.Option(min=2, help="Of each text, prompt and answer together.")
    ] = 4096,
    kept_memory: Annotated[
        str, typer.Option(help="For what was read, for prompts that begin alike, as in 1GiB.")
    ] = "1GiB",
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: as it was given.")
    ] = None,
    drafter: arguments.Drafter = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    weights: arguments.Weights = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say in JSON where the server listens.")
    ] = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients expect it.

    It answers at /v1/chat/completions and /v1/completions.

    Requests are decoded together and come and go at any time. Fields that are not understood are
    refused by name. There is no authentication: put a proxy before it, or keep it on this machine.

    \b
    Examples:
      specdec serve
      specdec serve -m ./my-model --port 9000 --slots 8 --drafter ngram
    """
    try:
        import uvicorn

        from specdec.serving.app import Server
    except ImportError as error:
        raise InvalidArgument(
            "serving needs starlette and uvicorn: pip install 'specdec-engine[serve]'"
        ) from error
    from specdec.offload.memory import parse_bytes
    from specdec.serving.listening import listening
    from specdec.serving.live_batch import LiveBatch

    if name == "":
        raise InvalidArgument("--name is empty: give a name, or leave it out")
    kept = parse_bytes(kept_memory, "--kept-memory")
    with listening(host, port) as socket:
        engine = console.load_engine(
            model, dtype, device, trust_remote_code, activations=activations, weights=weights
        )
        settings = options.drafting(engine, call)
        if drafter is not None:
            settings["drafter"] = drafter
        engine.stream([1], **settings).close()  # what cannot be had is said before anybody connects
        batch = LiveBatch(engine, slots, slot_tokens, kept, **settings)
        address = "http://{}:{}/v1".format(*socket.getsockname()[:2])
        if as_json:
            console.print_json({"url": address, "model": name or model})
            sys.stdout.flush()
        else:
            console.err().print(f"{engine!r} at {address}. Ctrl-C ends it.", markup=False)
        app = Server(batch, name or model).app()
        try:
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[socket])
        finally:
            batch.close()
