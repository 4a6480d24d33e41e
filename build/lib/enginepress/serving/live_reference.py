"""A reference made by asking a release that is published: what clients get today is what a new build is compared with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.repository.place import place, write_placement
from enginepress.serving.client import Question, ask_http
from enginepress.serving.gate import GATED_NUMBER, encoder_of
from enginepress.serving.reference import Reference, ReferenceAnswer
from enginepress.serving.servable import check_servable_here
from enginepress.serving.tritonserver import TritonServer

if TYPE_CHECKING:
    from enginepress.recipe import Recipe


def live_reference(repository: Path, recipe: Recipe, *, folder: Path) -> Reference:
    """Serves a release and writes down its answers to the recipe's prompts.

    Args:
        folder: gets live-server.log; scratch is made inside it and removed.

    Raises:
        GateError: if its engine was built for another machine.
        ServerError: if that release cannot be served here, or does not answer.
    """
    check_servable_here(repository)
    placed = folder / "scratch" / "live"
    placed.parent.mkdir(parents=True, exist_ok=True)
    encode = encoder_of(repository)
    try:
        write_placement(place(repository, GATED_NUMBER, str(placed)), placed, link="symlink")
        with TritonServer(
            placed, log=folder / "live-server.log", ready_timeout_s=recipe.checks.ready_timeout_s, exit_timeout_s=0
        ) as server:
            answers = []
            for prompt in recipe.checks.prompts:
                said = ask_http(server.http, recipe.name, Question.of(prompt, recipe.engine.builder), stream=False).text
                answers.append(
                    ReferenceAnswer(
                        text=prompt.text,
                        messages=None if prompt.messages is None else tuple(prompt.messages),
                        max_tokens=prompt.max_tokens,
                        tokens=tuple(encode(said)) if encode is not None else (),
                        answer=said,
                    )
                )
            return Reference(revision="", source=str(repository), made_with={"triton": server.version}, answers=tuple(answers))
    finally:
        shutil.rmtree(folder / "scratch", ignore_errors=True)
