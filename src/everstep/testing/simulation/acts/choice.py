"""All acts, and which of them a seed plays."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from everstep.testing.simulation.acts.act import Act
from everstep.testing.simulation.acts.families import Families, Ids
from everstep.testing.simulation.acts.ledgers import Ledgers
from everstep.testing.simulation.acts.letters import Letters
from everstep.testing.simulation.acts.relaxed import Stretches
from everstep.testing.simulation.acts.repairs import Cancelling, Meddling, Mending
from everstep.testing.simulation.acts.requests import Requests
from everstep.testing.simulation.acts.sagas import Sagas
from everstep.testing.simulation.acts.trees import Trees
from everstep.testing.simulation.acts.troubles import Damage, Poison
from everstep.testing.simulation.acts.versions import Versions

ALL: tuple[type[Act], ...] = (
    Trees,
    Letters,
    Requests,
    Ledgers,
    Sagas,
    Stretches,
    Families,
    Versions,
    Mending,
    Meddling,
    Cancelling,
    Poison,
    Damage,
    Ids,
)


def all_acts(dice: Random) -> Sequence[Act]:
    """One or two of them, drawn by their weights."""
    bag = [kind for kind in ALL for _ in range(kind.weight)]
    kinds = [dice.choice(bag) for _ in range(dice.choice([1, 1, 2]))]
    if any(kind.is_alone for kind in kinds):
        kinds = [kind for kind in kinds if kind.is_alone][:1]
    kinds = kinds[:1] if len(kinds) == 2 and kinds[0] is kinds[1] and kinds[0].has_versions else kinds
    return [kind(f"{kind.__name__.lower()}{number}", dice) for number, kind in enumerate(kinds)]
