"""`specdec chat`: a conversation at the terminal, which reads only what is new."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import arguments, console, options
from specdec.cli.generate import print_steps
from specdec.cli.summary import print_summary
from specdec.errors import InvalidArgument, SpecdecError

if TYPE_CHECKING:
    from specdec.decoding.conversation import Conversation
    from specdec.engine import Engine

_COMMANDS = {
    "/image FILE": "show a picture with the next message; may be repeated",
    "/drafter NAME": "who drafts from now on",
    "/stats": "what the last answer cost",
    "/clear": "forget what was said",
    "/help": "these lines",
    "/exit": "leave; so does Ctrl-D",
}


@options.MethodOptions()
def chat(
    call: typer.Context,
    model: arguments.Model = "demo",
    system: Annotated[
        str | None, typer.Option(help="What stands before all turns, as the system's words.")
    ] = None,
    drafter: arguments.Drafter = None,
    max_new_tokens: arguments.MaxNewTokens = 512,
    temperature: arguments.Temperature = 0.0,
    top_p: arguments.TopP = None,
    seed: arguments.Seed = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    weights: arguments.Weights = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as a line of JSON and nothing else.")
    ] = False,
) -> None:
    """Talk with a model. Each line is a message; a turn reads only what is new.

    /image FILE, /drafter NAME, /stats, /clear, /help and /exit are commands. Messages may come from
    a pipe.

    \b
    Examples:
      specdec chat
      specdec chat --system "You are brief." --temperature 0.7
      printf 'Hello\\nWhat did I say?\\n' | specdec chat --json
    """
    engine = console.load_engine(
        model, dtype, device, trust_remote_code, activations=activations, weights=weights
    )
    templates = (engine.tokenizer, engine.processor)
    if engine.tokenizer is not None and not any(
        getattr(x, "chat_template", None) for x in templates
    ):
        raise InvalidArgument(
            f"{model} has no chat template, so nobody can talk with it: `specdec generate` goes on "
            "from a text"
        )
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    settings |= {k: v for k, v in {"top_p": top_p, "seed": seed}.items() if v is not None}
    settings |= options.drafting(engine, call)
    if drafter is not None:
        settings["drafter"] = drafter
    conversation = engine.chat(system, **settings)
    asks = sys.stdin.isatty() and not as_json
    if asks:
        console.err().print(f"{engine!r}. /help lists commands.", style="dim", markup=False)
    shown: list[dict[str, Any]] = []  # pictures that go with the next message
    while (line := _line(asks)) is not None:
        if line.startswith("/image "):
            _show(line.removeprefix("/image ").strip(), shown, engine)
        elif line.startswith("/"):
            if not _command(line, conversation, engine):
                break
        elif line.strip() and _turn(line, shown, conversation, as_json):
            shown.clear()
    if shown:
        console.err().print(f"{len(shown)} of /image went with no message", style="yellow")


def _line(asks: bool) -> str | None:
    """The next message; None at the end."""
    try:
        if asks:
            return input("> ")
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    except EOFError:
        return None


def _show(path: str, shown: list[dict[str, Any]], engine: Engine) -> None:
    """Have a picture go with the next message, if this model takes it and it can be read."""
    from specdec.vision.files import image
    from specdec.vision.inputs import reads_images

    try:
        if not reads_images(engine.model):
            raise InvalidArgument(f"{type(engine.model).__name__} reads text alone")
        shown.append({"type": "image", "image": image(path, "/image")})
    except SpecdecError as error:
        console.err().print(f"error: {error}", style="red", markup=False)


def _turn(
    line: str, shown: list[dict[str, Any]], conversation: Conversation, as_json: bool
) -> bool:
    """One answer, and whether it came to its end. Ctrl-C ends it, and leaves the conversation as it
    was before."""
    content = [*shown, {"type": "text", "text": line}] if shown else line
    stream = conversation.stream(content)
    try:
        if as_json:
            for _ in stream:
                pass
            assert conversation.last is not None
            console.print_json(conversation.last.to_dict())
        else:
            print_steps(stream)
    except KeyboardInterrupt:
        console.err().print("\ninterrupted: the answer is forgotten", style="dim")
        return False
    finally:
        stream.close()
    return True


def _command(line: str, conversation: Conversation, engine: Engine) -> bool:
    """Do what a line with a slash says; whether the conversation goes on."""
    name, _, value = line.partition(" ")
    err = console.err()
    if name == "/exit":
        return False
    if name == "/stats" and conversation.last is not None:
        print_summary(conversation.last, None)
        seconds = conversation.last.stats.prefill_s
        err.print(f"read what was new in {seconds:.2f} s", style="cyan")
    elif name == "/stats":
        err.print("nothing was answered yet", style="dim")
    elif name == "/clear":
        conversation.clear()
    elif name == "/drafter" and value:
        _change_drafter(value.strip(), conversation, engine)
    else:
        if name != "/help":
            said = "give it a value" if line in ("/image", "/drafter") else "it was not answered"
            err.print(f"error: {line!r} is no command: {said}", style="red", markup=False)
        for command, what in _COMMANDS.items():
            err.print(f"{command:14} {what}", style="dim", markup=False, highlight=False)
    return True


def _change_drafter(name: str, conversation: Conversation, engine: Engine) -> None:
    """Take another drafter, unless this model cannot have it."""
    settings = {**conversation.settings, "drafter": name}
    try:
        engine.stream([1], **settings).close()
    except SpecdecError as error:
        console.err().print(f"error: {error}", style="red", markup=False)
        return
    conversation.settings = settings
