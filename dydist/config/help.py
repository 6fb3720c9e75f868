"""The help of a run's configuration, which tyro prints from the dataclasses. tyro is imported only for it."""

from __future__ import annotations

from typing import Any, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dydist.config import Config
from dydist.text.strict import load_yaml

PROGRAM = "accelerate launch dydist/train.py"


def print_help() -> None:
    """Print every field with its default and description, by section."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """Show mappings like other fields; tyro's default omits empty ones."""
        if get_origin(info.type) is not dict:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{KEY: VALUE}",
            instance_from_str=lambda texts: load_yaml(texts[0]),
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [str(value)],
        )

    tyro.cli(
        tyro.conf.configure(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)(Config),
        prog=PROGRAM,
        description=(
            "Train one run of dydist. Values come from --config FILE (a YAML recipe, see launch/recipes/, or a "
            "run's config.yaml), then from flags over it. Run again, the same command resumes from the newest "
            "valid checkpoint.\n\nExample: accelerate launch dydist/train.py --config "
            "launch/recipes/cifar10-small.yaml --data.root data --train.epochs 2"
        ),
        args=["--help"],
        use_underscores=True,
        registry=registry,
    )
