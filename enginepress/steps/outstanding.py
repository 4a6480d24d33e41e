"""What is missing until a recipe is up to date. Reads only the stores' small records: no kfp, no mlflow, no weights."""

from __future__ import annotations

from enginepress.recipe import Recipe
from enginepress.steps.job import Plan
from enginepress.steps.lost_files import refuse_lost
from enginepress.steps.promote import unmoved
from enginepress.steps.register import is_registered
from enginepress.steps.signing import unsigned
from enginepress.steps.verify import checks_record
from enginepress.stores.open import open_store


def outstanding(recipe: Recipe, plan: Plan) -> list[str]:
    """What a run would do, in words and in order; empty if the recipe is up to date.

    Raises:
        StoreError: for what no run mends: another store than the primary one has lost files of the release.
    """
    name, number = recipe.name, plan.release
    if not number:
        return [f"publish anew, since {plan.lost}" if plan.lost else "build a new release"]
    primary, *others = [open_store(s) for s in recipe.stores]
    missing = []
    if primary.read_record(name, number, checks_record(plan)) is None:
        missing.append(f"gate release {number} by these checks")
    for store in others:
        if number not in store.numbers(name):
            missing.append(f"publish release {number} to {store.url}")
        else:
            refuse_lost(store, name, number)
    if unsigned(recipe, [primary, *others], number):
        missing.append(f"sign release {number}")
    if not is_registered(recipe, primary, number):
        missing.append(f"register release {number}")
    missing += [f"promote release {number} to {channel} in {store.url}" for store, channel in unmoved(recipe, number)]
    return missing


def channel_notes(recipe: Recipe, plan: Plan) -> list[str]:
    """Channels that an operator moved elsewhere since this release was promoted to them."""
    primary = open_store(recipe.stores[0])
    notes = []
    for channel in recipe.channels:
        current = primary.channel(recipe.name, channel)
        if current != plan.release:
            move = f"`enginepress promote RECIPE {plan.release} --channel {channel}`"
            notes.append(f"channel {channel} is on release {current}; a run does not undo that: {move} does")
    return notes
