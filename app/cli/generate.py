"""`carryover generate`: print a text as a session writes it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL


def generate(
    session: connect.SessionId,
    prompt: Annotated[str, typer.Option(help="Text that the session reads first.")] = "",
    steps: Annotated[int, typer.Option("--steps", "-n", min=1, help="Most tokens to write.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="How much is left to chance; 0: nothing.")
    ] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Draw from so many of the likeliest tokens.", show_default=False),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Draw from the likeliest tokens that are as likely as this together.",
            show_default=False,
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Draw from tokens that are this share as likely as the likeliest.",
            show_default=False,
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Above 1, tokens are less likely that the text has already.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the draws. [default: the session's own]", show_default=False),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="A text that ends the text. May be given several times.", show_default=False),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Write on a copy: the session stays where it is.")
    ] = False,
    model: connect.NewModel = None,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Print a text as a session writes it. The session consumes the prompt and the text.

    With --json, each token is a line: its position, its number and its text.

    For example: carryover generate poet --prompt "The sea " --temperature 0.8
    """
    with connect.client(url, key_file, connect.PATIENCE_SECONDS) as service:
        text = service.session(session, model=model).generate(
            prompt,
            steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or (),
            keep=not copy,
        )
        for token in text:
            if as_json:
                line = {"position": token.position, "token": token.token, "text": token.text}
                print(json.dumps(line), flush=True)
            else:
                print(token, end="", flush=True)
    if not as_json:
        print()
